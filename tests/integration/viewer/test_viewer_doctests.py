"""The examples in the docstrings of the viewer, which are also its documentation."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name", ["curves", "filters", "pages", "predictions", "queries", "security", "server"]
)
def test_examples(name):
    module = importlib.import_module(f"glyphrl.evaluation.viewer.{name}")
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed
