"""The mark that a learning classifier must pass."""

import math

import pytest

from tests.training.small_runs import draw_collection
from wsss.data.dataset import open_collection
from wsss.training.baseline import ConstantScores, constant_scores


def test_constant_scores_are_the_frequencies_of_the_tags(tmp_path):
    collection = open_collection(draw_collection(tmp_path))
    records = list(collection.read("train"))
    frequencies = [sum(index in record.labels for record in records) / len(records) for index in range(2)]
    baseline = constant_scores(collection, "train")
    entropies = [-p * math.log(p) - (1 - p) * math.log(1 - p) if 0 < p < 1 else 0.0 for p in frequencies]
    assert baseline.loss == pytest.approx(sum(entropies) / 2, abs=1e-5)
    assert baseline.average_precision == pytest.approx(sum(frequencies) / 2)


@pytest.mark.parametrize(
    ("loss", "average_precision", "problem"),
    [
        (0.6, 0.9, None),
        (0.6, None, None),
        (0.7, 0.9, "loss 0.7 is not below 0.69"),
        (float("nan"), 0.9, "loss nan is not below 0.69"),
        (0.6, 0.51, "val_map 0.51 is at chance, 0.5"),
    ],
)
def test_a_network_has_learned_below_the_loss_and_above_the_precision(loss, average_precision, problem):
    found = ConstantScores(0.69, 0.5).find_problem(loss, average_precision)
    assert found is None if problem is None else problem in found
