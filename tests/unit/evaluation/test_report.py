"""Reports: complete in one file, honest in their headline, and safe whatever a model wrote."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from html.parser import HTMLParser

import pytest

from glyphrl.errors import UserError
from glyphrl.evaluation.cases import most_changed, worst
from glyphrl.evaluation.report import headline, write_evaluation_report, write_run_report
from glyphrl.evaluation.thumbnails import thumbnail
from glyphrl.trainers.alarms import Alarm, Stopped, append_alarm, write_stopped

EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    '"><svg onload=alert(3)>',
    "' autofocus onfocus=alert(4) x='",
    "{{ 7 * 7 }}{% raw %}",
    "</style><!-- \u202e\u0000\u200b ]]>",
    "javascript:alert(5)",
]


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(re.sub(r"(?s)<(style|script)>.*?</\1>", r"<\1></\1>", html))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend((tag, name, value or "") for name, value in attrs)

    def handle_data(self, data):
        self.text += data


def check_contained(html: str) -> Page:
    """Fails where the page loads something, has a foreign script or style, or hides a character."""
    page = Page(html)
    assert page.tags.count("script") == page.tags.count("style") == 1
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name, value)
        assert name != "style", (tag, value)  # the policy would not let it work
        if name in ("src", "href"):
            assert value.startswith("data:image/webp;base64,"), (tag, value)
    assert not re.search(r"https?:|url\(|@import", html)
    policy = next(
        v for tag, name, v in page.attributes if tag == "meta" and name == "content" and "default-src" in v
    )
    assert policy.startswith("default-src 'none'")
    for tag in ("script", "style"):
        inner = html.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    for hidden in "\u0000\u202e\u200b":
        assert hidden not in html
    return page


def test_evaluation_report_shows_the_worst_cases_first(build):
    samples = build.samples(["476.0", "12", "abcdefghij"])
    result = build.evaluate(samples, {"s0": "<answer>475.0</answer>", "s1": "12", "s2": ""})
    page = check_contained(write_evaluation_report(result.folder).read_text(encoding="utf-8"))
    assert page.text.index("s2") < page.text.index("s0")  # 0 % before 80 %
    assert "format: missing" in page.text
    assert page.tags.count("img") == 2  # s1 was read rightly
    assert "1 edit" in page.text
    cer = 11 / 17
    assert f"{100 * cer:.1f}" in page.text
    assert "3 samples, 17 reference characters" in " ".join(page.text.split())


def test_untrusted_text_stays_text(build):
    samples = build.samples(["<b>bold</b>", *EVIL[1:]])
    completions = {f"s{i}": f"<answer>{text}</answer>" for i, text in enumerate([*EVIL[1:], EVIL[0]])}
    result = build.evaluate(samples, completions, name="<u>model\u202e")
    html = write_evaluation_report(result.folder).read_text(encoding="utf-8")
    page = check_contained(html)
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html
    assert "What <u>model⟨U+202E⟩ reads" in page.text
    assert "u" not in page.tags
    assert "{{ 7 * 7 }}" in page.text.replace("␣", " ")


def test_untrusted_names_in_a_run_stay_text(build):
    build.run(["1", "2", "3"], {"base": ["1", "x", "y"], "sft": ["1", "2", "z"]})
    log = build.run_dir / "metrics.jsonl"
    name = "rewards/'><script>alert(1)</script>\\u202e\\ud800/mean"
    rows = [f'{{"stage": "grpo", "step": {i}, "{name}": {i}}}\n' for i in (40, 41)]
    log.write_text(log.read_text(encoding="utf-8") + "".join(rows), encoding="utf-8")
    html = write_run_report(build.run_dir).read_text(encoding="utf-8")
    check_contained(html)
    assert "<script>alert" not in html
    assert "&lt;b&gt;here&lt;/b&gt;" in html  # config.yaml


def test_run_report_shows_models_curves_and_changes(build):
    solutions = [f"{i:03d}" for i in range(20)]
    grpo = list(solutions)
    grpo[7] = "xxx"
    build.run(solutions, {"base": [""] * 20, "sft": ["0"] * 19 + [solutions[19]], "grpo": grpo})
    page = check_contained(write_run_report(build.run_dir).read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    assert "GRPO gained" in text
    assert "after SFT → after GRPO: 18 samples got better, 1 worse, 1 stayed the same." in text
    for title in (
        "Reward",
        "Parts of the reward",
        "SFT loss",
        "Most improved",
        "Most worsened",
        "Worst cases after GRPO",
    ):
        assert title in text
    worsened = text[text.index("Most worsened") : text.index("Worst cases after GRPO")]
    assert "s7" in worsened
    assert "−33 points" in worsened


def test_run_report_from_part_of_a_run(build, tmp_path):
    with pytest.raises(UserError, match="it has neither"):
        write_run_report(tmp_path)
    build.run(["1", "2"], {"base": ["1", "x"]})
    assert "base: text accuracy 50.0" in write_run_report(build.run_dir).read_text(encoding="utf-8")
    (build.run_dir / "summary.json").unlink()
    html = write_run_report(build.run_dir, tmp_path / "other.html").read_text(encoding="utf-8")
    assert "not evaluated yet" in html
    assert "SFT loss" in html


def test_headline_says_what_was_shown(build):
    right = [f"{i:03d}" for i in range(40)]
    wrong = [text[:-1] + "x" for text in right]
    for sft, grpo, tone, says in [
        (
            wrong,
            right,
            "good",
            "GRPO gained 33.3 points of text accuracy over its SFT start (95 % interval +33.3 to +33.3).",
        ),
        (
            right,
            wrong,
            "bad",
            "GRPO lost 33.3 points of text accuracy against its SFT start (95 % interval −33.3 to −33.3).",
        ),
        (right, right, "open", "no change is shown (95 % interval +0.0 to +0.0, which includes 0)"),
    ]:
        shutil.rmtree(build.run_dir, ignore_errors=True)
        sentence, found = headline(build.run(right, {"sft": sft, "grpo": grpo}))
        assert (found, says in sentence) == (tone, True), sentence


def test_choice_of_cases(build):
    samples = build.samples(["aaaa", "bbbb", "cc", "dddddd"])
    before = build.evaluate(samples, build.tagged(["aaaa", "bbxx", "xx", "xxxxxx"]), "sft").predictions
    after = build.evaluate(samples, build.tagged(["axxx", "bbbb", "cx", "xxxxxx"]), "grpo").predictions
    # text_acc before: 1, 0.5, 0, 0; after: 0.25, 1, 0.5, 0
    assert worst(before, 10).tolist() == [3, 2, 1]  # equal accuracy: the greater distance first
    assert worst(before, 2).tolist() == [3, 2]
    assert sorted(most_changed(before, after, 10, improved=True).tolist()) == [1, 2]
    assert most_changed(before, after, 10, improved=False).tolist() == [0]


def test_images_that_are_gone_or_broken_are_named(build, tmp_path):
    samples = build.samples(["1", "2", "3"])
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"\x89PNG broken")
    result = build.evaluate(samples, {"s0": "", "s1": "", "s2": ""})
    page = check_contained(write_evaluation_report(result.folder).read_text(encoding="utf-8"))
    assert "0.png: the image file is no longer there" in page.text
    assert "1.png: the image cannot be read" in page.text
    assert page.tags.count("img") == 1


def test_large_images_are_reduced_and_small_ones_are_not(build, tmp_path):
    build.samples(["1"], size=(3000, 600))
    large = thumbnail(tmp_path / "0.png")
    assert (large.width, large.height) == (1000, 200)
    assert len(large.uri) < 20_000
    build.samples(["1"], size=(50, 20))
    assert (thumbnail(tmp_path / "0.png").width, thumbnail(tmp_path / "0.png").height) == (50, 20)
    assert thumbnail(tmp_path).problem  # a folder


def test_a_perfect_model_has_no_worst_cases(build):
    result = build.evaluate(build.samples(["1", "2"]), build.tagged(["1", "2"]))
    text = write_evaluation_report(result.folder).read_text(encoding="utf-8")
    assert "every answer equals its reference" in text
    assert "Every character was read." in text


def test_long_completions_stay_short_on_the_page(build):
    result = build.evaluate(build.samples(["1", "2"]), {"s0": "ab" * 60_000, "s1": "<answer>2</answer>"})
    html = write_evaluation_report(result.folder).read_text(encoding="utf-8")
    assert len(html) < 60_000
    assert "116000 more characters" in html


def test_alarms_are_shown_and_escaped(tmp_path):
    """And where there are none, there is no section."""
    (tmp_path / "metrics.jsonl").write_text(
        "".join(
            f'{{"stage": "grpo", "step": {n}, "reward": 0.{n}, "edit_similarity": 0.5}}\n' for n in range(3)
        )
    )
    page = check_contained(write_run_report(tmp_path).read_text(encoding="utf-8"))
    assert "Alarms" not in page.text
    assert "Edit similarity" in page.text
    alarm = Alarm("gaming", 40, 21, f"the reward rose {EVIL[1]}")
    append_alarm(tmp_path, "grpo", alarm, "stop")
    with (tmp_path / "alarms.jsonl").open("a") as file:
        file.write('{"stage": "grpo", "st')  # cut short by a kill
    (tmp_path / "grpo" / "final").mkdir(parents=True)
    write_stopped(tmp_path / "grpo" / "final", Stopped(alarm, "checkpoint-20", "GRPO was stopped"))
    page = check_contained(write_run_report(tmp_path).read_text(encoding="utf-8"))
    assert "Alarms" in page.text
    assert f"the reward rose {EVIL[1]}" in page.text
    assert "GRPO was stopped." in page.text
