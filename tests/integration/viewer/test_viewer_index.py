"""The index: what it takes out of the logs, how it follows a live run, and what it makes of damaged files."""

from __future__ import annotations

import json
import shutil

import pytest

from glyphrl.evaluation.viewer.log_rows import similarities
from glyphrl.evaluation.viewer.runs import Settings


def table(client, query):
    return client.index.fetch(query)


def test_steps_are_means_over_all_ranks(runs, client):
    # rewards: 1, 0 | 1, 1 on rank 0; 0, 0 on rank 1. "476" is 3 of 5 characters: similarity 0.6.
    runs.write(3, [["476.0", "476"], ["476.0", "476.0"]])
    runs.write(3, [["476", "476"]], rank=1)
    (row,) = table(client(), "SELECT * FROM steps")
    assert (row["step"], row["completions"], row["groups"]) == (3, 6, 3)
    assert row["reward"] == pytest.approx(3 / 6)
    assert row["similarity"] == pytest.approx((3 * 1.0 + 3 * 0.6) / 6)
    assert row["exact"] == pytest.approx(0.5)
    assert row["same"] == pytest.approx(2 / 3)  # all but the first group have equal rewards
    assert row["tokens"] == pytest.approx((3 * 7 + 3 * 5) / 6)


def test_similarity_is_that_of_the_evaluation():
    from glyphrl.evaluation.metrics import text_metrics

    true, read = ["等:¥476.0", "", "é", "ab  c"], ["等:¥47G.0x", "", "e\u0301", "ab c"]
    assert similarities(true, read, Settings()) == pytest.approx(
        text_metrics(true, read).similarities.tolist()
    )
    folded = Settings(normalization="nfc", fold_whitespace=True)
    expected = text_metrics(true, read, normalization="nfc", fold_whitespace=True).similarities.tolist()
    assert similarities(true, read, folded) == pytest.approx(expected)
    assert similarities([None], ["a"], Settings()) == [0.0]


def test_new_steps_show_up_and_those_taken_back_go(runs, client):
    for step in range(3):
        runs.write(step, [["476.0", "4"]])
    asked = client()
    assert not asked.index.refresh()
    runs.write(3, [["476.0"]])
    assert asked.index.refresh()
    assert [row["step"] for row in table(asked, "SELECT step FROM steps ORDER BY step")] == [0, 1, 2, 3]
    # a resumed run goes back to step 2, and writes it anew
    from glyphrl.trainers.completions_log import CompletionsLog

    CompletionsLog(runs.folder / "run").drop_from(2)
    runs.write(2, [["4", "4"]])
    assert asked.index.refresh()
    rows = table(asked, "SELECT step, reward FROM steps ORDER BY step")
    assert [(row["step"], row["reward"]) for row in rows] == [(0, 0.5), (1, 0.5), (2, 0.0)]
    assert table(asked, "SELECT count(*) AS n FROM rows")[0]["n"] == 6
    assert table(asked, "SELECT count(*) AS n FROM groups")[0]["n"] == 3


def test_pages_say_what_is_still_to_be_read(runs, client, monkeypatch):
    for run in ("one", "two"):
        runs.write(0, [["476.0"]], run=run)
    from glyphrl.evaluation.viewer.index import Index

    monkeypatch.setattr(Index, "_refresh_run", lambda self, run: False)  # as if reading had just begun
    page = client("one", "two").get("/").text
    assert page.count("0 of 1 files so far") == 2


def test_the_trainers_log_is_watched_too(runs, client):
    """SFT writes no completions, and is live all the same."""
    runs.metrics([{"stage": "sft", "step": 1, "loss": 2.0}, {"stage": "sft", "step": 2, "loss": 1.0}])
    asked = client()
    state = json.loads(asked.get("/api/state").text)["runs"][0]
    assert (state["state"], state["last"]) == ("live", None)
    assert "SFT loss" in asked.get("/").text
    runs.metrics([{"stage": "sft", "step": step, "loss": 2.0 / step} for step in (1, 2, 3)])
    assert asked.index.refresh()
    assert not asked.index.refresh()
    (runs.folder / "run/grpo/final").mkdir(parents=True)
    assert json.loads(asked.get("/api/state").text)["runs"][0]["state"] == "finished"


def test_parts_of_the_reward_come_and_go(runs, client):
    """A part that some completions or steps lack is null there, and counts in no mean."""
    evil = 'o"; DROP TABLE rows; --'
    runs.write(0, [["476.0", "4"]], rewards=lambda a: {"ned": 0.5, evil: None if a == "4" else 1.0})
    runs.write(1, [["476.0"]], rewards=lambda a: {"other": 0.25})
    asked = client()
    assert asked.index.states[0].parts == ["ned", evil, "other"]
    column = asked.index.part_columns
    rows = table(asked, "SELECT * FROM steps ORDER BY step")
    assert [rows[0][column[name]] for name in asked.index.states[0].parts] == [0.5, 1.0, None]
    assert [rows[1][column[name]] for name in asked.index.states[0].parts] == [None, None, 0.25]


def test_groups_of_two_generations_of_a_step_stay_apart(runs, client):
    """Their group ids are the same; the file tells them apart."""
    from glyphrl.trainers.completions_log import LogKey

    first = runs.write(0, [["476.0", "4"]])
    shutil.copy(first, first.with_name(LogKey(0, 0, 1).file_name()))
    asked = client()
    rows = table(asked, "SELECT chunk, grp, size FROM groups ORDER BY chunk")
    assert [(row["chunk"], row["grp"], row["size"]) for row in rows] == [(0, 0, 2), (1, 0, 2)]
    assert "group 2 of 2" in asked.get("/run/0/step/0/group/0-1-0").text


def test_a_damaged_file_is_named_and_the_rest_is_shown(runs, client):
    runs.write(0, [["476.0", "4"]])
    broken = runs.write(1, [["476.0"]])
    broken.write_bytes(broken.read_bytes()[:200])
    (runs.folder / "run" / "completions" / "step-2.parquet").write_bytes(b"")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"step": [3]}), broken.with_name("step-00000003-rank-0000-000.parquet"))
    asked = client()
    reasons = asked.index.states[0].broken
    assert set(reasons) == {broken.name, "step-2.parquet", "step-00000003-rank-0000-000.parquet"}
    assert "lacks group_id" in reasons["step-00000003-rank-0000-000.parquet"]
    page = asked.get("/run/0/step/0").text
    assert "3 files of" in page
    assert broken.name in page
    # mended, it is read
    runs.write(1, [["476.0"]])
    assert asked.index.refresh()
    assert broken.name not in asked.index.states[0].broken
    assert table(asked, "SELECT count(*) AS n FROM steps")[0]["n"] == 2


def test_a_damaged_evaluation_is_named(runs, client):
    runs.write(0, [["476.0"]])
    runs.evaluation("sft", ["476.0"], ["475.0"])
    (runs.folder / "run/eval/grpo").mkdir()
    (runs.folder / "run/eval/grpo/predictions.parquet").write_bytes(b"PAR1 and no more")
    page = client().get("/evaluations")
    assert page.status == 200
    assert "eval/grpo" in page.text
    assert "after SFT" in page.text


def test_confusions_count_samples_and_lead_to_them(runs, client):
    # e0: 0 read as O twice and . left out; e1: 0 read as O; e2 right; e3: x made up
    runs.evaluation("sft", ["0a0b.c", "20", "30", "40"], ["OaObc", "2O", "30", "40x"])
    asked = client()
    rows = table(
        asked, "SELECT reference, answer, count(*) AS n, sum(times)::INT AS t FROM confusions GROUP BY ALL"
    )
    assert {(r["reference"], r["answer"]): (r["n"], r["t"]) for r in rows} == {
        ("0", "O"): (2, 3), (".", ""): (1, 1), ("", "x"): (1, 1),
    }  # fmt: skip
    page = asked.get("/run/0/evaluation/sft/confusions").text
    assert "?true=0&amp;read=O" in page
    found = asked.get("/run/0/evaluation/sft?true=0&read=O").text
    assert "<b>2</b> of 4 samples" in found
    assert "“0” read as “O”" in found
    assert "<b>1</b> of 4 samples" in asked.get("/run/0/evaluation/sft?true=.&read=").text


def test_the_index_reaches_neither_files_nor_the_network(runs, client):
    import duckdb

    runs.write(0, [["476.0"]])
    asked = client()
    for statement in (
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY rows TO '/tmp/stolen.csv'",
        "INSTALL httpfs",
    ):
        with pytest.raises(duckdb.Error):
            asked.index.fetch(statement)


def test_odd_values_of_a_foreign_log(runs, client):
    """Nulls, infinities, images as plain paths, numbers as ids: nothing that a file may hold ends the reading."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = runs.write(0, [["476.0", "4"]])
    table = pq.read_table(path)
    odd = {
        "sample_id": [7, None],
        "images": [["/a.png"], None],
        "completion": [None, "x"],
        "solution": [None, None],
        "answer": ["4", None],
        "reward": [float("inf"), float("nan")],
        "advantage": [1e308, -1e308],
        "num_tokens": [None, None],
        "reward/ned": [float("-inf"), 1e308],
    }
    for name, values in odd.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, path)
    runs.write(1, [["476.0"]])
    asked = client()
    assert not asked.index.states[0].broken
    (row,) = asked.index.fetch("SELECT * FROM steps WHERE step = 0")
    assert row["reward"] is None
    for address in ("/", "/api/curves", "/run/0/step/0", "/run/0/step/0/group/0-0-0", "/run/0/completions?sort=reward",
                    "/run/0/samples", "/run/0/sample?id=7"):  # fmt: skip
        assert asked.get(address).status == 200, address
    json.loads(asked.get("/api/curves").text)
