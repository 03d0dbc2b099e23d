"""Every page over real logs, fed with what a model or a sender of a log might try."""

from __future__ import annotations

import json
import re
import time
from urllib.parse import quote

import pytest

from glyphrl.evaluation.viewer.marks import proofread
from glyphrl.evaluation.viewer.runs import Settings

SCRIPT = "<script>document.title='owned'</script>"
EVIL = (
    SCRIPT,
    "\"'><img src=x onerror=alert(1)>",
    "</style></script><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "a\u202eb\u2066c\u200bd\x00\x1b[31m\ufeff",
)
PAGES = (
    "/",
    "/?runs=0",
    "/run/0/step/0",
    "/run/0/step/0?sort=-spread",
    "/run/0/step/0/group/0-0-0",
    "/run/0/step/0/group/0-0-0?whole=1",
    "/run/0/completions",
    "/run/0/completions?text=" + quote(SCRIPT),
    "/run/0/completions?sample=" + quote(SCRIPT),
    "/run/0/samples",
    "/run/0/sample?id=" + quote("s0" + SCRIPT),
    "/evaluations",
    "/run/0/evaluation/sft",
    "/run/0/evaluation/grpo",
    "/run/0/evaluation/grpo?text=" + quote(SCRIPT),
    "/run/0/evaluation/grpo?true=" + quote("<") + "&read=" + quote("\u202e"),
    "/run/0/evaluation/grpo/confusions",
    "/no/such/page/" + quote(SCRIPT),
)


@pytest.fixture(scope="module")
def hostile(module_runs, module_client):
    """A run in which everything that comes from outside is hostile."""
    runs = module_runs
    runs.write(
        0, [list(EVIL)] * 2, reference=EVIL[1] + EVIL[4], sample=lambda n: f"s{n}{SCRIPT}",
        rewards=lambda a: {SCRIPT: 0.5}, prompt=SCRIPT, format_fault=SCRIPT, note=SCRIPT,
        images=[{"path": f"/nowhere/{SCRIPT}.png", "sha256": "x"}],
    )  # fmt: skip
    for model in ("sft", "grpo"):
        runs.evaluation(model, EVIL[:4], [text[::-1] + EVIL[4] for text in EVIL[:4]])
    (runs.folder / "run/config.yaml").write_text(f'output_dir: "{SCRIPT}"\n')
    runs.metrics(
        [{"stage": "grpo", "step": i, f"rewards/{SCRIPT}/mean": 0.1 * i, "entropy": 0.3} for i in range(3)]
    )
    return module_client()


@pytest.mark.parametrize("address", PAGES)
def test_what_a_model_writes_is_text(hostile, address):
    """No markup of the log's own, no hidden character, no template of the log is carried out."""
    answer = hostile.get(address)
    assert answer.status == (404 if "/no/" in address else 200)
    allowed = {"/assets/", 'type="application/json"'}
    for script in re.findall(r"<script\b[^>]*>", answer.text):
        assert any(sign in script for sign in allowed), script
    assert "<img src=x" not in answer.text
    assert "<svg onload" not in answer.text
    assert " style=" not in answer.text  # the policy would refuse it
    assert not re.search(r"\son[a-z]+=", re.sub(r">[^<]*<|=\"[^\"]*\"", "><", answer.text))
    # chart data are no text of the page, and the value of a field has to come back as it is
    shown = re.sub(r'<script type="application/json".*?</script>| value="[^"]*"', "", answer.text, flags=re.S)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x00\x1b\ufeff]", shown)
    assert ">49" not in answer.text


def test_hidden_characters_are_shown(hostile):
    page = hostile.get("/run/0/step/0/group/0-0-0").text
    for sign in ("⟨U+202E⟩", "⟨U+2066⟩", "⟨U+200B⟩", "␀", "␛", "⟨U+FEFF⟩"):
        assert sign in page
    assert "6 hidden characters" in page
    assert "&lt;script&gt;" in page


def test_chart_data_cannot_end_its_block(hostile):
    page = hostile.get("/").text
    (block,) = re.findall(r'<script type="application/json" id="chart-data">(.*?)</script>', page, flags=re.S)
    names = [series["name"] for chart in json.loads(block)["charts"] for series in chart["series"]]
    assert SCRIPT in names  # it arrives as text, and charts.js sets it as text


def test_long_completions_stay_small_and_quick(runs, client):
    runs.write(0, [["9" * 100_000, "<b>" * 33_000, "4\u202e" * 50_000, "\n" * 100_000]] * 2)
    asked = client()
    started = time.process_time()
    page = asked.get("/run/0/step/0/group/0-0-0")
    assert time.process_time() - started < 2.0  # 0.1 s on an idle machine
    assert len(page.body) < 400_000
    assert "96,017 more characters" in page.text  # 100,000 and 17 of the tags, less 4,000
    assert "Only the first 3,000 characters are compared here" in page.text
    assert len(asked.get("/run/0/completions").body) < 400_000
    assert "9" * 100_000 in asked.get("/run/0/step/0/group/0-0-0?whole=1").text


def test_completions_come_by_reward_with_their_marks(runs, client):
    runs.write(
        2, [["47G.0", "476.0", "4760"]], rewards=lambda a: {"ned": {"47G.0": 0.8, "476.0": 1.0}.get(a, 0.7)}
    )
    page = client().get("/run/0/step/2/group/0-0-0").text
    assert re.findall(r'id="c(\d)"', page) == ["1", "0", "2"]
    assert re.search(
        r'class="wrong"><span>G</span><rt><span class="vh"> for </span><b class="imp">6</b></rt>', page
    )
    assert re.search(r'class="missed">.*?left out: </span>\.</rt>', page)
    assert "▲ +0.50" in page
    assert "✓ exact" in page


def test_marks_count_errors_and_important_ones():
    # 4 -> 7 and . left out and x made up: three edits; one touches a digit
    reading = proofread("a4b.cde", "a7bcdex", Settings())
    assert [(m.kind, "".join(g.text for g in m.written), "".join(g.text for g in m.missed)) for m in reading.marks] == [
        ("equal", "a", ""), ("substitution", "7", "4"), ("equal", "b", ""), ("deletion", "", "."),
        ("equal", "cde", ""), ("insertion", "x", ""),
    ]  # fmt: skip
    assert (reading.errors, reading.important) == (3, 1)
    assert proofread("", "", Settings()).errors == 0
    assert [mark.short for mark in proofread("abcdef", "adef", Settings()).marks][1] is True
    assert [mark.short for mark in proofread("abcdef", "aef", Settings()).marks][
        1
    ] is False  # three characters


def test_what_was_read_rightly_is_one_stretch():
    """Words from right to left stand in their order; a line ends where one of the text does."""
    (mark,) = proofread("مرحبا بالعالم", "مرحبا بالعالم", Settings()).marks
    assert "".join(g.text for g in mark.written) == "مرحبا بالعالم"
    (mark,) = proofread("a b\nc d", "a b\nc d", Settings()).marks
    assert "".join(g.text for g in mark.written) == "a b↵\nc d"
    swapped = proofread("a\nb", "a b", Settings()).marks[1]
    assert (swapped.kind, swapped.line_break, swapped.missed[0].text) == ("substitution", True, "↵")


@pytest.fixture(scope="module")
def three(module_runs, module_client):
    """Three completions: a right one, a wrong one, and a right one that was cut off."""
    runs = module_runs
    runs.write(0, [["476.0"]], run="three", sample=lambda n: "s0")
    runs.write(1, [["xyz"]], run="three", sample=lambda n: "s1")
    runs.write(2, [["476.0"]], run="three", sample=lambda n: "s2", rewards=lambda a: {"ned": 0.75},
               format_fault="unclosed", finish_reason="length")  # fmt: skip
    return module_client("three")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {"s0", "s1", "s2"}),
        ("reward_below=0.5", {"s1"}),
        ("reward_above=0.5&reward_below=1", {"s2"}),
        ("similarity_below=0.9", {"s1"}),
        ("fault=any", {"s2"}),
        ("fault=none", {"s0", "s1"}),
        ("fault=unclosed", {"s2"}),
        ("cut=1", {"s2"}),
        ("sample=s1", {"s1"}),
        ("step_from=1&step_to=1", {"s1"}),
        ("text=xyz&in=answer", {"s1"}),
        ("text=ANSWER", {"s0", "s1", "s2"}),
        ("text=.*", set()),
        ("text=%27;DROP", set()),
        ("text=476&in=solution&sort=-tokens&page=1", {"s0", "s1", "s2"}),
    ],
)
def test_filters(three, query, found):
    page = three.get(f"/run/0/completions?{query}").text
    assert set(re.findall(r'sample\?id=(s\d)"', page)) == found
    assert f"<b>{len(found)}</b>" in page


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("reward_below=low", "reward_below: expected a number"),
        ("reward_below=nan", "expected a number"),
        ("step_from=-1", "expected a whole number"),
        ("fault=unclosd", "did you mean &#39;unclosed&#39;?"),
        ("sort=reward DESC", "unknown value"),
        ("in=rowid&text=a", "unknown value"),
        ("text=" + "a" * 501, "at most 500 characters"),
    ],
)
def test_impossible_filters_are_sentences(three, query, says):
    answer = three.get("/run/0/completions?" + quote(query, safe="=&"))
    assert answer.status == 400
    assert says in answer.text


def test_steps_and_groups_lead_on(runs, client):
    for step in (1, 5):
        runs.write(step, [["476.0"], ["4"]])
    asked = client()
    assert asked.get("/run/0/step").headers["location"] == "/run/0/step/5"
    assert asked.get("/run/0/step?step=2").headers["location"] == "/run/0/step/1"
    group = asked.get("/run/0/step/1/group/0-0-1").text
    assert 'href="/run/0/step/1/group/0-0-0" data-key="k"' in group
    assert 'href="/run/0/step/5?open=0-0-1" data-key="n"' in group
    assert asked.get("/run/0/step/5?open=0-0-1").headers["location"] == "/run/0/step/5/group/0-0-1"
    assert asked.get("/run/0/step/5?open=0-0-9").headers["location"] == "/run/0/step/5/group/0-0-0"
    assert 'href="/run/0/step/5/group/0-0-1" data-key="]"' in group  # the same sample, next time


def test_a_sample_through_training(runs, client):
    for step, answers in enumerate((["4", "4", "47"], ["476.0", "476"])):
        runs.write(step, [answers], sample=lambda n: "a/b?c=<1>&d")
    page = client().get("/run/0/sample?id=" + quote("a/b?c=<1>&d")).text
    assert [int(n) for n in re.findall(r">Step (\d)</a>", page)] == [0, 1]
    assert re.findall(r'class="times">(\d) ×', page) == ["2", "1", "1", "1"]


def test_models_beside_each_other(runs, client):
    runs.evaluation("sft", ["abcd", "abcd", "abcd"], ["abcd", "a", "abc"])
    runs.evaluation("grpo", ["abcd", "abcd", "abcd"], ["abc", "abcd", "ab"])
    asked = client()
    ids = r'class="where"><bdi>(e\d)'
    page = asked.get("/run/0/evaluation/grpo").text
    assert re.findall(ids, page) == ["e2", "e0", "e1"]  # worst first: 0.5, 0.75, 1
    assert "1 better, 2 worse, 0 equal" in page
    assert re.findall(ids, asked.get("/run/0/evaluation/grpo?sort=improved").text)[0] == "e1"  # +75 points
    assert "▲ +75 points" in page
    assert re.findall(ids, asked.get("/run/0/evaluation/grpo?outcome=better").text) == ["e1"]
    alone = asked.get("/run/0/evaluation/grpo?against=none").text
    assert "points</span>" not in alone
    assert asked.get("/run/0/evaluation/grpo?against=none&sort=improved").status == 400
    assert asked.get("/run/0/evaluation/grpo?against=5:x").status == 400
    assert asked.get("/run/0/evaluation/other").status == 404


def test_two_runs_overlaid(runs, client):
    for run, reward in (("one", 0.25), ("two", 0.75)):
        for step in range(2):
            runs.write(step, [["4", "4"]], run=run, rewards=lambda a, reward=reward: {"ned": reward})
        runs.metrics([{"stage": "grpo", "step": i, "entropy": reward} for i in (1, 2)], run)
    asked = client("one", "two")
    charts = {chart["title"]: chart for chart in json.loads(asked.get("/api/curves").text)}
    assert [(s["run"], s["y"]) for s in charts["Reward"]["series"]] == [(0, [0.25, 0.25]), (1, [0.75, 0.75])]
    assert charts["Groups without a signal"]["series"][0]["y"] == [1.0, 1.0]
    assert [s["y"] for s in charts["Entropy"]["series"]] == [[0.25, 0.25], [0.75, 0.75]]
    alone = json.loads(asked.get("/api/curves?runs=1").text)
    assert {s["run"] for chart in alone for s in chart["series"]} == {1}
    assert asked.get("/api/curves?runs=7").status == 400


def test_long_runs_are_averaged(runs, client, monkeypatch):
    monkeypatch.setattr("glyphrl.evaluation.viewer.curves.POINTS", 2)
    for step, answer in enumerate(("476.0", "4", "4", "476.0")):
        runs.write(step, [[answer]])
    runs.metrics(
        [{"stage": "grpo", "step": 1_000_000 + step, "entropy": float(step)} for step in (1, 2, 3, 4)]
    )
    charts = {chart["title"]: chart for chart in json.loads(client().get("/api/curves").text)}
    reward, entropy = charts["Reward"]["series"][0], charts["Entropy"]["series"][0]
    assert (reward["x"], reward["y"]) == ([0.5, 2.5], [0.5, 0.5])
    assert (entropy["x"], entropy["y"]) == ([1_000_001.5, 1_000_003.5], [1.5, 3.5])
    assert "mean of 2 steps" in charts["Reward"]["caption"]
    assert "mean of 2 logged ones" in charts["Entropy"]["caption"]


def test_nothing_logged_yet(runs, client):
    (runs.folder / "run").mkdir()
    (runs.folder / "run/config.yaml").write_text("seed: 0\n")
    asked = client()
    for address, says in (
        ("/", "Nothing logged yet"),
        ("/run/0/step", "No completions yet"),
        ("/run/0/completions", "No completions yet"),
        ("/run/0/samples", "No samples"),
        ("/evaluations", "No evaluations yet"),
    ):
        answer = asked.get(address)
        assert answer.status == 200
        assert says in answer.text


@pytest.mark.parametrize(
    "address",
    ["/run/1/step", "/run/0/step/9", "/run/0/step/0/group/0-0-7", "/run/0/step/0/group/x", "/run/0/sample?id=no",
     f"/run/0/step/{2**70}", "/run/0/step/0/group/0-0-" + "9" * 30, "/run/0/evaluation/%2e%2e/confusions"],
)  # fmt: skip
def test_what_there_is_not(three, address):
    answer = three.get(address)
    assert answer.status == 404
    assert "There is no such page" in answer.text


@pytest.mark.parametrize("address", [page for page in PAGES if "/no/" not in page])
def test_an_exported_page_stands_alone(hostile, address):
    sign = "&" if "?" in address else "?"
    answer = hostile.get(f"{address}{sign}export=1")
    assert answer.headers["content-disposition"].startswith('attachment; filename="glyphrl-run')
    body = answer.text.partition("<body")[2]
    assert not re.search(r'(href|src|action)="(?!data:|#)', body)
    assert "<form" not in body
    assert "script-src &#39;sha256-" in answer.text
    assert "</script><svg" not in answer.text
