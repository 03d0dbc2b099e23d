"""Evaluating a model: what is written, resuming after a kill, and refusing to mix predictions."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from glyphrl.config_schema import EvalConfig
from glyphrl.data.sample import Sample
from glyphrl.data.table import SampleTable
from glyphrl.errors import UserError
from glyphrl.evaluation.evaluate import evaluate_model
from glyphrl.evaluation.predictions import PREDICTION_SCHEMA, load_evaluation

CONFIG = EvalConfig(bootstrap_samples=100, max_new_tokens=64)
SOLUTIONS = ["476.0", "12", "305.9", "abc", "7"]
COMPLETIONS = {
    "s0": "<answer>47G.00</answer>",
    "s1": "<answer>12</answer>",
    "s2": "305.9",
    "s3": "<answer>x</answer><answer>abd</answer>",
    "s4": "",
}


def test_predictions_and_metrics_on_disk(build, tmp_path):
    samples = build.samples(SOLUTIONS)
    result = evaluate_model(
        build.generate(COMPLETIONS), samples, CONFIG, tmp_path / "out", "sft", progress=False
    )
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert table.schema.names == PREDICTION_SCHEMA.names
    assert table["sample_id"].to_pylist() == ["s0", "s1", "s2", "s3", "s4"]
    assert table["images"].to_pylist()[0] == [str(tmp_path / "0.png")]
    assert table["answer"].to_pylist() == ["47G.00", "12", "305.9", "abd", ""]
    assert table["format_fault"].to_pylist() == [None, None, "missing", "repeated", "missing"]
    assert table["distance"].to_pylist() == [2, 0, 0, 1, 1]
    assert table["text_acc"].to_pylist() == pytest.approx([1 - 2 / 6, 1, 1, 2 / 3, 0])
    assert table["exact"].to_pylist() == [False, True, True, False, False]
    assert table["num_tokens"].to_pylist() == [len(COMPLETIONS[f"s{i}"]) for i in range(5)]

    saved = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert saved["samples"] == 5
    assert saved["metrics"]["cer"]["value"] == pytest.approx(4 / 16)
    assert saved["metrics"]["exact_match"]["value"] == pytest.approx(2 / 5)
    assert saved["metrics"]["format_rate"]["value"] == pytest.approx(2 / 5)
    for interval in saved["metrics"].values():
        assert interval["low"] <= interval["value"] <= interval["high"]
    assert saved["counts"]["format_faults"] == {"missing": 2, "repeated": 1}
    assert saved["counts"]["reference_characters"] == 16
    assert not (tmp_path / "out" / "parts").exists()
    loaded = load_evaluation(tmp_path / "out")
    assert loaded.metrics == result.metrics
    assert loaded.predictions.equals(result.predictions)


def test_a_killed_evaluation_goes_on_where_it_stopped(build, tmp_path):
    samples = build.samples(SOLUTIONS)
    honest = build.generate(COMPLETIONS)

    def dies(batch):
        if batch[0].id == "s4":
            raise KeyboardInterrupt
        return honest(batch)

    with pytest.raises(KeyboardInterrupt):
        evaluate_model(dies, samples, CONFIG, tmp_path / "out", "sft", chunk=2, progress=False)
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert len(list((tmp_path / "out" / "parts").glob("part-*.parquet"))) == 2

    calls: list[list[str]] = []
    resumed = evaluate_model(
        build.generate(COMPLETIONS, calls), samples, CONFIG, tmp_path / "out", "sft", chunk=2, progress=False
    )
    assert calls == [["s4"]]
    whole = evaluate_model(honest, samples, CONFIG, tmp_path / "whole", "sft", progress=False)
    assert resumed.predictions.equals(whole.predictions)
    assert resumed.metrics == whole.metrics


def test_a_kill_between_the_last_prediction_and_the_metrics_loses_nothing(build, tmp_path):
    samples = build.samples(SOLUTIONS)
    first = evaluate_model(
        build.generate(COMPLETIONS), samples, CONFIG, tmp_path / "out", "sft", progress=False
    )
    (tmp_path / "out" / "metrics.json").unlink()
    calls: list[list[str]] = []
    again = evaluate_model(
        build.generate(COMPLETIONS, calls), samples, CONFIG, tmp_path / "out", "sft", progress=False
    )
    assert calls == []
    assert again.metrics == first.metrics


def test_finished_predictions_are_scored_anew_with_other_settings(build, tmp_path):
    samples = build.samples(["４７６", "a  b"])
    answers = build.tagged(["476", "a b"])
    plain = evaluate_model(build.generate(answers), samples, CONFIG, tmp_path / "out", "sft", progress=False)
    assert plain.metrics["exact_match"].value == 0.0
    config = replace(CONFIG, normalization="nfkc", fold_whitespace=True)
    calls: list[list[str]] = []
    folded = evaluate_model(
        build.generate(answers, calls), samples, config, tmp_path / "out", "sft", progress=False
    )
    assert calls == []
    assert folded.metrics["exact_match"].value == 1.0
    assert folded.predictions["solution"].to_pylist() == ["４７６", "a  b"]


def test_more_samples_keep_the_finished_ones(build, tmp_path):
    samples = build.samples(SOLUTIONS)
    evaluate_model(build.generate(COMPLETIONS), samples[2:4], CONFIG, tmp_path / "out", "sft", progress=False)
    calls: list[list[str]] = []
    result = evaluate_model(
        build.generate(COMPLETIONS, calls),
        SampleTable.from_samples(samples),
        CONFIG,
        tmp_path / "out",
        "sft",
        progress=False,
    )
    assert calls == [["s0", "s1", "s4"]]
    assert result.predictions["sample_id"].to_pylist() == ["s0", "s1", "s2", "s3", "s4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_name": "grpo"}, "model 'sft', this evaluation has 'grpo'"),
        ({"fingerprint": "weights-2"}, "fingerprint '', this evaluation has 'weights-2'"),
        ({"config": replace(CONFIG, max_new_tokens=8)}, "max_new_tokens 64, this evaluation has 8"),
    ],
)
def test_predictions_of_another_model_are_refused(build, tmp_path, change, message):
    samples = build.samples(SOLUTIONS)
    arguments = {"config": CONFIG, "model_name": "sft", "fingerprint": "", "out_dir": tmp_path / "out"}
    evaluate_model(build.generate(COMPLETIONS), samples, progress=False, **arguments)
    with pytest.raises(UserError, match=message):
        evaluate_model(build.generate(COMPLETIONS), samples, progress=False, **(arguments | change))
    calls: list[list[str]] = []
    evaluate_model(
        build.generate(COMPLETIONS, calls), samples, progress=False, overwrite=True, **(arguments | change)
    )
    assert calls == [["s0", "s1", "s2", "s3", "s4"]]


def test_predictions_of_other_samples_are_refused(build, tmp_path):
    samples = build.samples(SOLUTIONS)
    out = tmp_path / "out"
    evaluate_model(build.generate(COMPLETIONS), samples, CONFIG, out, "sft", progress=False)
    before = (out / "predictions.parquet").read_bytes()
    with pytest.raises(UserError, match=r"3 samples that are not among these 2, e.g. 's2'"):
        evaluate_model(build.generate(COMPLETIONS), samples[:2], CONFIG, out, "sft", progress=False)
    changed = [replace(samples[0], solution="other"), *samples[1:]]
    with pytest.raises(
        UserError, match=r"sample 's0' with the solution '476\.0', the sample now has 'other'"
    ):
        evaluate_model(build.generate(COMPLETIONS), changed, CONFIG, out, "sft", progress=False)
    assert (out / "predictions.parquet").read_bytes() == before


def test_samples_must_be_there_and_have_ids_of_their_own(build, tmp_path):
    with pytest.raises(UserError, match="at least one"):
        evaluate_model(build.generate({}), [], CONFIG, tmp_path / "out", "sft", progress=False)
    sample = Sample("same", (), "p", "x")
    with pytest.raises(UserError, match=r"1 ids that occur more than once, e\.g\. 'same'"):
        evaluate_model(build.generate({}), [sample, sample], CONFIG, tmp_path / "out", "sft", progress=False)


def test_text_that_utf8_cannot_carry_is_stored_all_the_same(build, tmp_path):
    sample = Sample("id\ud800", (), [{"role": "user", "content": "r\udfff"}], "a\ud800b")
    generate = build.generate({"id\ud800": "<answer>a\ud800b\x00\u202e</answer>"})
    result = evaluate_model(generate, [sample], CONFIG, tmp_path / "out", "sft", progress=False)
    row = result.predictions.to_pylist()[0]
    assert (row["sample_id"], row["solution"], row["answer"]) == (
        "id\ufffd",
        "a\ufffdb",
        "a\ufffdb\x00\u202e",
    )
    assert row["distance"] == 2
    assert result.metrics["cer"].low is None  # one sample has no interval
    calls: list[list[str]] = []
    evaluate_model(build.generate({}, calls), [sample], CONFIG, tmp_path / "out", "sft", progress=False)
    assert calls == []


def test_progress_goes_to_stderr_alone(build, tmp_path, capsys):
    samples = build.samples(SOLUTIONS)
    evaluate_model(build.generate(COMPLETIONS), samples, CONFIG, tmp_path / "a", "sft", chunk=2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "eval sft: 100%" in err
    assert "text_acc=0.667" in err  # the mean over all five: (2/3 + 1 + 1 + 2/3 + 0) / 5
    evaluate_model(build.generate(COMPLETIONS), samples, CONFIG, tmp_path / "b", "sft", progress=False)
    assert capsys.readouterr().err == ""


def test_a_folder_without_an_evaluation_is_named(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.json is missing.*glyphrl eval"):
        load_evaluation(tmp_path)
    (tmp_path / "metrics.json").write_text("[]")
    (tmp_path / "predictions.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"metrics\.json: expected metrics"):
        load_evaluation(tmp_path)
    (tmp_path / "metrics.json").write_text('{"model": "m", "metrics": {}, "counts": {}, "settings": {}}')
    with pytest.raises(UserError, match=r"predictions\.parquet: expected a Parquet file"):
        load_evaluation(tmp_path)
