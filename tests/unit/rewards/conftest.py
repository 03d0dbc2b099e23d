"""Helpers of the reward tests."""

import pytest

from glyphrl.rewards import registry


@pytest.fixture(autouse=True)
def clean_registry():
    """Every test starts with the built-in rewards alone."""
    registry.clear_registered()
    yield
    registry.clear_registered()
