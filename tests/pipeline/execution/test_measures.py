"""Counters and distributions that a user of a cluster watches, and what of them stands in the results."""

import json
import re

import pytest

from tests.pseudo_label_cases import corrupt, label, tree, write_collection
from wsss.common import io
from wsss.pipeline.execution import graph_runner, measures
from wsss.pipeline.stages import refine


@pytest.fixture
def results(monkeypatch):
    """The `PipelineResult`s of the pipelines that are run."""
    found, run = [], graph_runner.run

    def keep(pipeline):
        found.append(run(pipeline))
        return found[-1]

    monkeypatch.setattr(graph_runner, "run", keep)
    return found


def measured(results):
    """Counters, and distributions, by name, of all pipelines together."""
    counters, distributions = {}, {}
    for result in results:
        metrics = result.metrics().query()
        for each in metrics["counters"]:
            name = each.key.metric.name
            if each.key.metric.namespace == measures.NAMESPACE:
                counters[name] = counters.get(name, 0) + each.committed
        for each in metrics["distributions"]:
            if each.key.metric.namespace == measures.NAMESPACE:
                distributions.setdefault(each.key.metric.name, []).append(each.committed)
    return counters, distributions


def test_images_failures_and_bytes_are_counted_in_beam_and_in_the_summary(
    run, records, tmp_path, results, monkeypatch
):
    crf = refine._image

    def image(scored):
        if scored.input.record.image_id == "image_05":
            raise ArithmeticError("of this image")
        return crf(scored)

    monkeypatch.setattr(refine, "_image", image)
    records = [corrupt(records[0]), *records[1:]]
    write_collection(str(tmp_path / "data"), records)
    output = tmp_path / "labels"
    assert label(output, run, "--data", str(tmp_path / "data"), "--refine", "crf", "--images_per_wave=6") == 0
    assert len(results) > 1  # waves
    counters, distributions = measured(results)
    assert counters["images_read"] == 12
    assert counters["images_labeled"] == 10
    failed = {name: number for name, number in counters.items() if name.startswith("failed_")}
    assert failed == {"failed_decode_BadImage": 1, "failed_refine_ArithmeticError": 1}
    files = tree(output)
    written = {
        name: len(content) for name, content in files.items() if re.match("masks|scores|previews", name)
    }
    assert counters["bytes_written"] == sum(written.values())
    sizes = [len(record.image_bytes) for record in records]
    assert sum(each.sum for each in distributions["image_bytes"]) == sum(sizes)
    assert max(each.max for each in distributions["image_bytes"]) == max(sizes)
    images = json.loads(files["summary.json"])["images"]
    assert (images["read"], images["labelled"], images["failed"]) == (12, 10, 2)
    assert images["failed_by_reason"] == {"decode BadImage": 1, "refine ArithmeticError": 1}
    labeled = [len(record.image_bytes) for record in records if f"masks/{record.image_id}.png" in files]
    assert images["bytes"] == sum(labeled)


def test_the_time_of_each_step_is_measured_and_said(run, data, tmp_path, results, capsys):
    assert label(tmp_path, run, "--data", data) == 0
    _, distributions = measured(results)
    timed = {name: sum(each.count for each in found) for name, found in distributions.items()}
    assert (
        timed["decode_microseconds"] == timed["scoring_microseconds"] == timed["writing_microseconds"] == 12
    )
    assert 1 <= timed["network_microseconds"] <= 12  # a batch each
    assert timed["refinement_microseconds"] >= 12  # a stage each
    assert all(each.sum > 0 for each in distributions["network_microseconds"])
    line = next(each for each in capsys.readouterr().out.splitlines() if each.startswith("Seconds"))
    steps = ", ".join(rf"{step} \d+\.\d" for step in measures.STEPS)
    assert re.fullmatch(rf"Seconds of all workers: {steps}\.", line)


def test_a_run_with_nothing_to_do_says_no_time(run, data, tmp_path, capsys):
    assert label(tmp_path, run, "--data", data) == 0
    before = tree(tmp_path)
    capsys.readouterr()
    assert label(tmp_path, run, "--data", data) == 0
    assert "Seconds" not in capsys.readouterr().out
    assert tree(tmp_path) == before
    assert io.exists(str(tmp_path / "summary.json"))
