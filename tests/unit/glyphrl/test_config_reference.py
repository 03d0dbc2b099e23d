"""docs/configuration.md says what the schema says."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from glyphrl.config import build_config, to_dict
from glyphrl.config_reference import field_rows, filled

PAGE = "docs/configuration.md"


def test_the_page_is_up_to_date(repository: Path) -> None:
    page = (repository / PAGE).read_text(encoding="utf-8")
    assert page == filled(page), f"run: python -m glyphrl.config_reference {PAGE}"


def test_every_field_stands_in_the_table_and_is_explained() -> None:
    config = build_config({"model": {"tiny": {}, "lora": {}}, "sft": {}, "grpo": {}}, ["model.path=null"])

    def keys(value: object, prefix: str = "") -> set[str]:
        if not isinstance(value, dict) or not value:
            return {prefix}
        return {
            key for name, item in value.items() for key in keys(item, f"{prefix}.{name}" if prefix else name)
        }

    values = to_dict(config)
    entries = values["rewards"]["functions"][0]
    wanted = keys(values) | {f"rewards.functions.N.{name}" for name in entries}
    rows = {row.key: row for row in field_rows()}
    assert wanted == set(rows) - {"model.tiny", "model.lora"}
    assert all(row.doc.endswith((".", "`")) or "e.g." in row.doc for row in rows.values())


def test_the_example_is_a_configuration(repository: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (repository / PAGE).read_text(encoding="utf-8"), re.DOTALL)
    config = build_config(yaml.safe_load(example))
    assert config.grpo is not None
    assert config.grpo.args["num_generations"] == 8


def test_the_overrides_of_the_page_work(repository: Path) -> None:
    page = (repository / PAGE).read_text(encoding="utf-8")
    overrides = re.findall(r"^glyphrl train run.yaml ('[^']+'|\S+=\S+)", page, re.MULTILINE)
    assert len(overrides) == 6
    for override in overrides:
        build_config({"model": {"tiny": {}}, "sft": {}, "grpo": {}}, [override.strip("'")])
