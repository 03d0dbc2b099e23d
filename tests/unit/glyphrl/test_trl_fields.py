"""TRL's configuration fields: what is read from the source, what the classes have, what we allow."""

from __future__ import annotations

import dataclasses
from typing import get_args, get_origin

import pytest

from glyphrl.trl_fields import UNKNOWN, trl_fields
from glyphrl.trl_policy import CHOICES, CONFIG_CLASS, HONOURED, REFUSED, RENAMED, field_type, refusal

STAGES = ("sft", "grpo")


@pytest.mark.parametrize("stage", STAGES)
def test_the_source_agrees_with_the_real_classes(stage: str) -> None:
    import trl

    real = {
        field.name: field for field in dataclasses.fields(getattr(trl, CONFIG_CLASS[stage])) if field.init
    }
    read = trl_fields(CONFIG_CLASS[stage])
    assert set(read) == set(real)
    for name, field in real.items():
        default = field.default
        if default is dataclasses.MISSING:
            default = field.default_factory()
        if read[name].default is not UNKNOWN:
            assert read[name].default == default, name
            assert type(read[name].default) is type(default), name
    assert [name for name in read if read[name].default is UNKNOWN] == ["optim"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_field_is_honoured_or_refused_for_a_reason(stage: str) -> None:
    honoured = HONOURED["both"] | HONOURED[stage]
    refused = REFUSED["both"] | REFUSED[stage]
    assert honoured | set(refused) == set(trl_fields(CONFIG_CLASS[stage]))
    assert not honoured & set(refused)
    assert not HONOURED["both"] & HONOURED[stage]
    assert not set(REFUSED["both"]) & set(REFUSED[stage])
    assert not set(RENAMED) & (honoured | set(refused)), "a name that TRL has needs no other name"
    assert all(refusal(stage, name) for name in refused)
    assert not any(refusal(stage, name) for name in honoured)


def test_a_field_of_a_later_trl_is_refused_until_it_is_known() -> None:
    assert refusal("grpo", "brand_new_field") is not None


@pytest.mark.parametrize("stage", STAGES)
def test_defaults_fit_the_types_that_were_read(stage: str) -> None:
    def fits(value: object, kind: object) -> bool:
        origin = get_origin(kind)
        if origin is list or origin is dict:
            return isinstance(value, origin)
        if args := get_args(kind):
            return any(
                value == arg if not isinstance(arg, type) and get_origin(arg) is None else fits(value, arg)
                for arg in args
            )
        return (
            value is None if kind is type(None) else isinstance(value, float | int if kind is float else kind)
        )

    for name in HONOURED["both"] | HONOURED[stage]:
        field = trl_fields(CONFIG_CLASS[stage])[name]
        if field.default is not UNKNOWN:
            assert fits(field.default, field_type(stage, name)), (name, field.default, field.type)


def test_our_choices_are_choices_of_trl() -> None:
    """TRL documents them in text only, so its own defaults and its code have to accept them."""
    import inspect

    from trl.trainer import grpo_config, sft_trainer

    sources = {"grpo": inspect.getsource(grpo_config), "sft": inspect.getsource(sft_trainer)}
    for (stage, name), choices in CHOICES.items():
        kind = trl_fields(CONFIG_CLASS[stage])[name]
        for choice in choices:
            assert (
                f'"{choice}"' in sources[stage]
                or f"'{choice}'" in sources[stage]
                or choice in (kind.choices or ())
            )


def test_what_our_loss_takes_is_what_a_run_may_set() -> None:
    """A term that the loss gains has to become settable, and one that it loses has to be refused."""
    from glyphrl.trainers.loss import LossSettings

    others = {"epsilon_low": "epsilon"}
    terms = {others.get(field.name, field.name) for field in dataclasses.fields(LossSettings)}
    assert terms <= HONOURED["grpo"]
