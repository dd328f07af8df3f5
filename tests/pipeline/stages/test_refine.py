"""The stages of refinement are thin: they give what the pure functions give, or a failure."""

import numpy as np
import pytest

from tests.beam_outputs import outputs_of
from tests.pseudo_label_cases import make_records
from wsss.inference.cam_scores import background_scores, mask_from_scores
from wsss.pipeline.failures import FAILURES
from wsss.pipeline.stages.predict import Seed
from wsss.pipeline.stages.read import Item
from wsss.pipeline.stages.refine import (
    Background,
    LabelAffinity,
    LabelPixels,
    MergeScales,
    RefineCRF,
    RefinePAMR,
    Scored,
)
from wsss.refine.crf.dense_crf import DenseCRF, unary_from_labels, unary_from_probabilities


def apply(transform, elements):
    return outputs_of(transform, elements, "results", FAILURES)


@pytest.fixture
def record():
    return make_records(3)[2]  # two classes


@pytest.fixture
def scored(record):
    scores = np.random.default_rng(0).random((2, record.height, record.width), np.float32)
    return Scored(Item("shard", record, False), record.labels, scores, np.zeros(3, np.float32))


def test_merging_gives_scores_at_the_size_of_the_image(record):
    cams = np.random.default_rng(0).random((2, 3, 4), np.float32)
    seed = Seed(Item("shard", record, False), record.labels, (cams,), ((12, 16),), np.zeros(3, np.float32))
    (result,), failures = apply(MergeScales(), [seed])
    assert not failures
    assert result.scores.shape == (2, record.height, record.width)
    assert result.scores.min() == 0
    assert result.scores.max() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("background", [Background(threshold=0.3), Background(alpha=2.0)])
def test_labels_are_the_best_scores(scored, background):
    (result,), _ = apply(LabelPixels(background), [scored])
    expected = mask_from_scores(scored.scores, scored.keys, background(scored.scores))
    np.testing.assert_array_equal(result.mask, expected)


@pytest.mark.parametrize("unary", ["labels", "probabilities"])
def test_the_crf_is_applied_to_background_and_classes(scored, record, unary):
    background = Background(threshold=0.3)
    (result,), _ = apply(RefineCRF(background, "irn", unary, 2), [scored])
    stacked = np.concatenate([background(scored.scores)[None], scored.scores])
    if unary == "labels":
        energies = unary_from_labels(stacked.argmax(axis=0), 3)
    else:
        energies = unary_from_probabilities(stacked.transpose(1, 2, 0))
    expected = DenseCRF(record.image, "irn").infer(energies, 2).transpose(2, 0, 1)
    np.testing.assert_allclose(result.refined, expected, atol=1e-6)
    (labelled,), _ = apply(LabelPixels(background), [result])
    np.testing.assert_array_equal(labelled.mask, mask_from_scores(expected[1:], scored.keys, expected[0]))


def test_pamr_averages_scores_over_pixels_that_look_alike(scored):
    (result,), failures = apply(RefinePAMR(2), [scored])
    assert not failures
    assert result.scores.shape == scored.scores.shape
    assert result.scores.std() < scored.scores.std()
    np.testing.assert_allclose(result.scores.mean(), scored.scores.mean(), atol=0.05)


def test_affinity_labels_are_undecided_between_the_two_backgrounds(scored, record):
    (result,), _ = apply(LabelAffinity("seam", 1.0, 8.0), [scored])
    best = []
    for alpha in (1.0, 8.0):
        stacked = np.concatenate([background_scores(scored.scores, alpha=alpha)[None], scored.scores])
        best.append(
            DenseCRF(record.image).infer(unary_from_probabilities(stacked.transpose(1, 2, 0))).argmax(-1)
        )
    low, high = best
    labels = np.array([0, *(key + 1 for key in scored.keys)])
    expected = np.where(high == 0, 0, np.where(low == 0, 255, labels[low]))
    np.testing.assert_array_equal(result.mask, expected)


def test_an_image_without_classes_passes_every_stage(scored):
    empty = scored._replace(keys=(), scores=scored.scores[:0])
    background = Background(threshold=0.3)
    for stage in (RefinePAMR(), RefineCRF(background, "seam", "labels"), LabelPixels(background)):
        (empty,), failures = apply(stage, [empty])
        assert not failures
    assert not empty.mask.any()
    (labelled,), _ = apply(LabelAffinity("seam"), [empty])
    assert not labelled.mask.any()


def test_what_a_stage_cannot_refine_is_a_failure_with_its_reason(scored):
    mis_sized = scored._replace(scores=scored.scores[:, :-1])
    results, (failure,) = apply(RefineCRF(Background(threshold=0.3), "seam", "labels"), [mis_sized])
    assert not results
    assert (failure.image_id, failure.stage) == ("image_02", "refine")
    assert "unary must be (24, 32" in failure.reason
