"""Faults that pass, such as want of memory: tried again, within bounds, and nobody else's."""

import json

import pytest

from tests.pseudo_label_cases import label, tree, write_affinity_run
from wsss.common.errors import UserError
from wsss.inference.predictor import CamPredictor
from wsss.pipeline import dead_letter, graph
from wsss.pipeline.dead_letter import Failure, with_retries
from wsss.pipeline.job import labeling
from wsss.pipeline.stages import refine


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(dead_letter, "_PAUSES", (0, 0))


class Failing:
    """Raises an error in the first calls, or in all; then calls a function."""

    def __init__(self, function, error, times=10**9, when=lambda *args: True):
        self._function, self._error, self._times, self._when = function, error, times, when
        self.calls = 0

    def __call__(self, *args):
        if self._when(*args):
            self.calls += 1
            if self.calls <= self._times:
                raise self._error
        return self._function(*args)


class OutOfMemory(Exception):
    """As TensorFlow's, which has the name alone in common."""


OutOfMemory.__name__ = "ResourceExhaustedError"


@pytest.mark.parametrize("error", [MemoryError(), TimeoutError(), OutOfMemory()])
def test_what_may_pass_is_called_three_times_at_most(error):
    for times in (1, 2):
        assert with_retries(Failing(abs, error, times), -1) == 1
    failing = Failing(abs, error)
    with pytest.raises(type(error)):
        with_retries(failing, -1)
    assert failing.calls == 3


@pytest.mark.parametrize("error", [ValueError("of the image"), FileNotFoundError("gone"), PermissionError()])
def test_what_stays_is_called_once(error):
    failing = Failing(abs, error)
    with pytest.raises(type(error)):
        with_retries(failing, -1)
    assert failing.calls == 1


def test_a_failure_knows_whether_it_may_pass_by_itself():
    errors = MemoryError(), OSError("network"), FileNotFoundError("gone"), ValueError("of the image")
    failures = [Failure.of("shard", "image", "read", error) for error in errors]
    assert [failure.transient for failure in failures] == [True, True, True, False]
    assert [failure.may_pass for failure in failures] == [True, True, False, False]


def test_a_moment_without_memory_leaves_no_trace_in_the_labels(labels, run, data, tmp_path, monkeypatch):
    def is_single(predictor, images):
        return len(images) == 1

    failing = Failing(CamPredictor.predict, MemoryError(), 2, when=is_single)
    monkeypatch.setattr(CamPredictor, "predict", lambda *args: failing(*args))
    merging = Failing(refine.merge_scales, MemoryError(), 2)
    monkeypatch.setattr(refine, "merge_scales", merging)
    assert label(tmp_path, run, "--data", data) == 0
    assert min(failing.calls, merging.calls) > 2
    assert tree(tmp_path) == tree(labels)


@pytest.mark.parametrize("attempts_that_fail", [1, 10**9])
def test_a_runner_that_repeats_bundles_gets_a_shard_back_once(
    labels, run, data, tmp_path, monkeypatch, attempts_that_fail
):
    """The local runner repeats none: the second run of the program stands for the second attempt."""
    monkeypatch.setattr(labeling, "repeats_bundles", lambda beam_argv: True)
    failing = Failing(
        graph.tally_image,
        MemoryError(),
        3 * attempts_that_fail,
        when=lambda scored, _: scored.input.record.image_id == "image_03",
    )
    monkeypatch.setattr(graph, "tally_image", failing)
    with pytest.raises(Exception, match=r"1 images of train-00000-of-00003 are tried again: MemoryError"):
        label(tmp_path, run, "--data", data)
    assert failing.calls == 3
    assert not (tmp_path / "manifests" / "train-00000-of-00003.json").exists()
    assert label(tmp_path, run, "--data", data) == 0
    errors = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    if attempts_that_fail == 1:
        assert tree(tmp_path) == tree(labels)
    else:
        assert [(error["id"], error["transient"]) for error in errors] == [("image_03", True)]
        assert not (tmp_path / ".plan").exists()


@pytest.mark.parametrize("loader", ["cached_predictor", "cached_affinity_predictor"])
def test_a_model_that_a_worker_cannot_load_fails_the_job(run, data, tmp_path, monkeypatch, capsys, loader):
    from wsss.inference import loading

    affinity = str(write_affinity_run(tmp_path))
    load, calls = getattr(loading, loader), []

    def load_once(*args):
        calls.append(args)
        if len(calls) > 1:
            raise UserError("`model.keras` is not a whole `.keras` file.")
        return load(*args)

    monkeypatch.setattr(loading, loader, load_once)
    flags = ("--refine", "walk", "--affinity_model", affinity)
    assert label(tmp_path / "labels", run, "--data", data, *flags) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: `model.keras` is not a whole `.keras` file."
    assert not list((tmp_path / "labels").glob("manifests/*"))
