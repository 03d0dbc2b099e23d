"""What a comparison says in sentences and on its page, from logs that are made to have something to say."""

from __future__ import annotations

import doctest
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from glyphrl.evaluation.compare import page as page_module
from glyphrl.evaluation.compare import verdict as verdict_module
from glyphrl.evaluation.compare.compare import compare_rewards
from glyphrl.evaluation.compare.page import marked, render_page
from glyphrl.evaluation.compare.report import Comparison
from glyphrl.evaluation.compare.text import render_text
from glyphrl.trainers.completions_log import CompletionsLog, LogKey

EVIL = "<script>document.title='owned'</script>\u202e\x00\"'><img src=x onerror=alert(1)>"

PLUGIN = """
from glyphrl.rewards import register_reward

@register_reward("<b>length")
def by_length(completions, **columns):
    return [float(len(c)) for c in completions]
"""


def write(folder: Path, groups: dict[tuple[int, int], list[str]], solution: str, **extra: Any) -> Path:
    """A log of completions by (step, group), one file per step."""
    log = CompletionsLog(folder)
    for step in sorted({step for step, _ in groups}):
        rows = [
            {
                "run": "demo",
                "stage": "grpo",
                "step": step,
                "epoch": 0.0,
                "rank": 0,
                "group_id": f"{step}-0-{group}",
                "sample_id": f"s{group}",
                "completion_index": index,
                "prompt": "Read.",
                "images": [],
                "solution": solution,
                "completion": text,
                "answer": text,
                "format_fault": None,
                "finish_reason": "stop",
                "num_tokens": len(text),
                "mean_logprob": 0.0,
                "reward": float(len(text)),
                "advantage": 0.0,
                "reward_spec_hash": "0",
                "time": 0.0,
                **extra,
            }
            for (at, group), texts in groups.items()
            if at == step
            for index, text in enumerate(texts)
        ]
        log.write(LogKey(step, 0), rows, {})
    return folder


def compared(run: Path, *rewards: str) -> Comparison:
    """Compares in this process, with few resamples."""
    return compare_rewards([run], rewards, workers=0, resamples=100)


@pytest.fixture
def gamed(tmp_path: Path) -> Comparison:
    """Completions grow from step to step, and what they read gets worse; length is what was rewarded."""
    groups = {
        (step, group): ["abcdefgh"[: 8 - step] + "x" * (3 * step + extra) for extra in range(4)]
        for step in range(6)
        for group in range(8)
    }
    return compared(write(tmp_path / "run", groups, "abcdefgh"), "logged", "ned", "cer")


def test_a_gamed_reward_is_named(gamed):
    text = "\n".join(gamed.verdict)
    # steps 0 and 1 against 4 and 5: lengths 8 + 1.5 and 7 + 3 + 1.5; 4 + 12 + 1.5 and 3 + 15 + 1.5
    assert "`logged` rose from 10.5 to 18.5 between the first and the last third of the steps" in text
    assert "while edit similarity fell from" in text
    assert not re.search(r"`(ned|cer)` rose", text)
    assert "`logged` and `ned` want different things (Kendall's tau-b −1 within groups" in text


def test_the_reward_that_is_the_truth_is_not_praised_for_it(gamed):
    assert "`ned` loses 0 [0, 0] (here it equals edit similarity)" in gamed.verdict[0]
    assert "`cer` finds better completions than `logged`, beyond chance." in gamed.verdict[0]


def test_groups_without_a_signal_are_counted_at_the_last_step(tmp_path):
    same, differing = ["abc"] * 2, ["abc", "abd"]
    groups = {(0, g): differing for g in range(4)} | {(7, g): same if g < 3 else differing for g in range(4)}
    found = compared(write(tmp_path / "run", groups, "abc"), "ned", "format")
    assert (
        "At step 7, `format` leaves 100 % of groups without a signal (100 % over all steps); `ned` 75 % (38 % over "
        "all steps)." in found.verdict
    )
    assert "`format` is 0 for every completion: it carries no signal." in found.verdict
    assert not any("`ned` and `format`" in sentence for sentence in found.verdict)  # a constant has no order


def test_two_rewards_that_order_alike_are_called_alike(tmp_path):
    groups = {(0, g): ["abcd", "abcx", "abxx", "xxxx"] for g in range(3)}
    found = compared(write(tmp_path / "run", groups, "abcd"), "cer", "ned:normalization=nfc", "wer")
    assert any(s.startswith("`cer` and `ned` order completions nearly alike") for s in found.verdict)
    # One group is drawn again and again: the intervals have no width, and nothing is beyond chance by itself.
    assert found.pairs[0].kendall.low == found.pairs[0].kendall.high == 1.0


def test_one_group_makes_no_claims(tmp_path):
    found = compared(write(tmp_path / "run", {(0, 0): ["abcd", "x"]}, "abcd"), "cer", "format")
    assert found.reward("cer").zero_spread.low is None
    assert "beyond chance" not in "\n".join(found.verdict)
    assert "cer" in render_text(found)
    assert "Over training" not in render_page(found)  # one step is no curve


class Tags(HTMLParser):
    """Collects the names of all tags."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]


def test_untrusted_text_is_only_ever_text(tmp_path):
    groups = {(step, 0): [f"abc{EVIL * 2}", "abd", EVIL * 900, "x"] for step in range(3)}
    run = write(tmp_path / "run", groups, f"abc{EVIL}", sample_id=EVIL)
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    found = compare_rewards(
        [run], ["<b>length", "cer"], plugins=[str(plugin)], where="run <> '<i>'", workers=0, resamples=20
    )
    assert found.examples
    page = render_page(found)
    tags = Tags()
    tags.feed(page)
    assert tags.names.count("script") == 1
    assert not {"img", "b onerror", "i"} & set(tags.names)
    assert not [name for name in tags.attributes if name.startswith("on")]
    assert "\u202e" not in page
    assert "\x00" not in page
    assert "more characters" in page  # a long completion is cut
    assert "&lt;b&gt;length" in page
    assert "<b>length" not in page
    assert not {"src", "href"} & set(tags.attributes)
    assert not re.search(r"url\(|@import", page)
    assert "\u202e" not in render_text(found)


def test_marks_escape():
    assert str(marked("`<b>` is & `x`")) == "<code>&lt;b&gt;</code> is &amp; <code>x</code>"


@pytest.mark.parametrize("module", [page_module, verdict_module])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
