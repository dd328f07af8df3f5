"""The mark that a learning classifier must pass."""

import math

import pytest

from tests.training.small_runs import draw_collection
from wsss.common.errors import UserError
from wsss.data.dataset import open_collection
from wsss.data.synthetic import write_synthetic_collection
from wsss.training.baseline import ConstantScores, constant_scores
from wsss.training.loop import make_baseline
from wsss.training.options import TrainingOptions


def test_constant_scores_are_the_frequencies_of_the_tags(tmp_path):
    collection = open_collection(draw_collection(tmp_path))
    records = list(collection.read("train"))
    frequencies = [sum(index in record.labels for record in records) / len(records) for index in range(2)]
    baseline = constant_scores(collection, "train")
    entropies = [-p * math.log(p) - (1 - p) * math.log(1 - p) if 0 < p < 1 else 0.0 for p in frequencies]
    assert baseline.loss == pytest.approx(sum(entropies) / 2, abs=1e-5)
    assert baseline.average_precision == pytest.approx(sum(frequencies) / 2)
    assert baseline.logits == pytest.approx([math.log(p / (1 - p)) for p in frequencies])


def test_the_log_odds_of_tags_that_all_or_no_images_have_are_finite(tmp_path):
    collection = write_synthetic_collection(str(tmp_path / "same"), images=10, size=40, classes=1)
    images = len(list(collection.read("train")))
    assert constant_scores(collection, "train").logits == pytest.approx([math.log(2 * images - 1)])


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


def test_images_that_all_have_the_same_tags_are_refused_before_training(tmp_path):
    collection = write_synthetic_collection(str(tmp_path / "same"), images=6, size=40, classes=1)
    with pytest.raises(UserError, match=r"split train has the same tags \(striped_disc\)"):
        make_baseline(TrainingOptions(data="same"), collection)
    assert make_baseline(TrainingOptions(data="same", on_divergence="continue"), collection).same_tags
    others = open_collection(draw_collection(tmp_path / "others"))
    assert make_baseline(TrainingOptions(data="others"), others).same_tags == ()
