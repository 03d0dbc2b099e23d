"""The examples in the docstrings are computed by hand; they run here."""

import doctest
import importlib
import pkgutil

import pytest

import glyphrl.rewards

MODULES = sorted(m.name for m in pkgutil.iter_modules(glyphrl.rewards.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    module = importlib.import_module(f"glyphrl.rewards.{name}")
    result = doctest.testmod(module)
    assert result.failed == 0


def test_every_reward_has_examples():
    for location in glyphrl.rewards.registry.BUILT_IN.values():
        module, _, cls = location.partition(":")
        doc = getattr(importlib.import_module(module), cls).__doc__
        assert ">>>" in doc, location
