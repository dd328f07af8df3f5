"""The model handler: grouping by shape, failures that cost nobody else, one model in memory."""

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest

from tests.pseudo_label_cases import corrupt, make_records, write_run
from wsss.inference.predictor import Prediction
from wsss.pipeline.dead_letter import Failure, describe_error
from wsss.pipeline.stages.predict import CamModelHandler
from wsss.pipeline.stages.read import InputImage


class FakePredictor:
    """Gives each image its mean; fails on request."""

    def __init__(self, fails=lambda images: False, value=1.0):
        self.calls, self._fails, self._value = [], fails, value

    def predict(self, images):
        self.calls.append([image.shape for image in images])
        if self._fails(images):
            raise MemoryError("no room at 0x7f0123456789")
        cam = np.full((3, 2, 2), self._value, np.float32)
        return [Prediction((cam * image.mean(),), ((2, 2),), np.zeros(3, np.float32)) for image in images]


@pytest.fixture
def items():
    return [InputImage("shard", record, False) for record in make_records(6)]


def infer(items, predictor):
    return list(CamModelHandler("model.keras", "hash").run_inference(items, predictor))


def test_a_batch_is_grouped_by_shape_and_keeps_its_order(items):
    predictor = FakePredictor()
    results = infer(items, predictor)
    assert [result.example.record.image_id for result in results] == [item.record.image_id for item in items]
    assert all(len(set(shapes)) == 1 for shapes in predictor.calls)
    assert sorted(map(len, predictor.calls)) == [1, 2, 3]
    for item, result in zip(items, results, strict=True):
        np.testing.assert_allclose(result.inference.cams[0], item.record.image.mean(), rtol=1e-6)


def test_an_image_that_fails_costs_nobody_else(items):
    poison = items[2].record.image.mean()
    predictor = FakePredictor(fails=lambda images: any(image.mean() == poison for image in images))
    outcomes = [result.inference for result in infer(items, predictor)]
    assert [isinstance(outcome, Failure) for outcome in outcomes] == [index == 2 for index in range(6)]
    assert outcomes[2] == Failure(
        "shard", "image_02", "predict", "MemoryError: no room at 0x…", transient=True
    )


def test_an_image_that_cannot_be_decoded_costs_nobody_else(items):
    items[1] = items[1]._replace(record=corrupt(items[1].record))
    items[3] = items[3]._replace(record=replace(items[3].record, image_bytes=b""))
    outcomes = [result.inference for result in infer(items, FakePredictor())]
    assert [getattr(outcome, "stage", None) for outcome in outcomes] == [
        None,
        "decode",
        None,
        "decode",
        None,
        None,
    ]


def test_a_map_that_is_not_finite_is_a_failure(items):
    (result,) = infer(items[:1], FakePredictor(value=np.nan))
    assert result.inference.reason == "The network's output is not finite."


def test_the_handler_travels_to_workers_and_loads_one_model(tmp_path):
    write_run(tmp_path, "data")
    handler = CamModelHandler(
        str(tmp_path / "model.keras"), "hash", (("scales", (1.0,)),), {"accelerator": "x"}
    )
    copy = pickle.loads(pickle.dumps(handler))
    assert copy.get_resource_hints() == {"accelerator": "x"}
    assert copy.load_model() is handler.load_model()


@pytest.mark.parametrize("chosen", [None, "false"])
def test_a_worker_takes_the_memory_of_a_card_as_it_needs_it(tmp_path, monkeypatch, chosen):
    variable = "TF_FORCE_GPU_ALLOW_GROWTH"
    monkeypatch.setenv(variable, "")  # which is undone after the test
    monkeypatch.delenv(variable)
    if chosen:
        monkeypatch.setenv(variable, chosen)
    write_run(tmp_path, "data")
    CamModelHandler(str(tmp_path / "model.keras"), "hash").load_model()
    assert os.environ[variable] == (chosen or "true")


def test_reasons_are_one_short_line_without_addresses():
    assert describe_error(ValueError("first\nsecond")) == "ValueError: first"
    assert describe_error(KeyError()) == "KeyError"
    assert describe_error(OSError("<file object at 0x7fa21b2c>")) == "OSError: <file object at 0x…>"
    assert len(describe_error(ValueError("x" * 1000))) <= 300
