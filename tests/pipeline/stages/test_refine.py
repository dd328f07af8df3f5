"""The stages of refinement are thin: they give what the pure functions give, or a failure."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.beam_outputs import outputs_of
from tests.pseudo_label_cases import make_records
from wsss.common.errors import UserError
from wsss.data.records import Record
from wsss.pipeline.stages.predict import ImageCams
from wsss.pipeline.stages.read import InputImage
from wsss.pipeline.stages.refine import (
    Background,
    LabelAffinity,
    LabelIRN,
    LabelPixels,
    MergeScales,
    RefineCRF,
    RefinePAMR,
    RefineWalk,
    ScoredImage,
)


def apply(transform, elements):
    return outputs_of(transform, elements)


@pytest.fixture
def record():
    return make_records(3)[2]  # two classes


@pytest.fixture
def scored(record):
    scores = np.random.default_rng(0).random((2, record.height, record.width), np.float32)
    return ScoredImage(InputImage("shard", record, False), record.labels, scores, np.zeros(3, np.float32))


def test_merging_gives_scores_at_the_size_of_the_image(record):
    cams = np.random.default_rng(0).random((2, 3, 4), np.float32)
    image, classifier_scores = InputImage("shard", record, False), np.zeros(3, np.float32)
    image_cams = ImageCams(image, record.labels, (cams,), ((12, 16),), classifier_scores)
    (result,), failures = apply(MergeScales(), [image_cams])
    assert not failures
    assert result.scores.shape == (2, record.height, record.width)
    assert result.scores.min() == 0
    assert result.scores.max() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("background", "expected"),
    [(Background(threshold=0.3), [[0, 1, 3]]), (Background(alpha=2.0), [[0, 0, 3]])],
)
def test_labels_are_those_of_the_highest_scores(record, background, expected):
    """At alpha 2 the background's scores are 0.64, 0.42 and 0.01."""
    scores = np.float32([[[0.2, 0.35, 0.1]], [[0.1, 0.3, 0.9]]])
    (result,), _ = apply(
        LabelPixels(background),
        [ScoredImage(InputImage("shard", record, False), (0, 2), scores, np.zeros(3))],
    )
    np.testing.assert_array_equal(result.mask, expected)


@pytest.mark.parametrize("unary", ["labels", "probabilities"])
def test_the_crf_moves_scores_to_the_edges_of_the_image(stripes, unary):
    """The last columns of the first stripe score too little; by its color the CRF finds its end."""
    scores = stripes.scores.copy()
    scores[..., 16:20] = 0.25
    background = Background(threshold=0.3)
    (refined,), _ = apply(RefineCRF(background, "irn", unary), [stripes._replace(scores=scores)])
    assert refined.refined.shape == (2, 24, 60)
    np.testing.assert_allclose(refined.refined.sum(axis=0), 1, atol=1e-5)
    (labeled,), _ = apply(LabelPixels(background), [refined])
    np.testing.assert_array_equal(labeled.mask, np.repeat(np.uint8([3, 0, 0]), 20)[None].repeat(24, axis=0))


def test_pamr_averages_scores_over_pixels_that_look_alike(scored):
    (result,), failures = apply(RefinePAMR(2), [scored])
    assert not failures
    assert result.scores.shape == scored.scores.shape
    assert result.scores.std() < scored.scores.std()
    np.testing.assert_allclose(result.scores.mean(), scored.scores.mean(), atol=0.05)


@pytest.fixture
def stripes():
    """An image of three stripes, each of one color, in which a class scores 0.9, 0.15 and 0."""
    height, width = 24, 60
    scores = np.repeat(np.float32([0.9, 0.15, 0.0]), 20)[None, None].repeat(height, axis=1)
    pixels = (scores[0] * 250).astype(np.uint8)[..., None].repeat(3, axis=2)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    record = Record("stripes", stream.getvalue(), (2,), height, width, 1, None)
    return ScoredImage(InputImage("shard", record, False), (2,), scores, np.zeros(3, np.float32))


@pytest.mark.parametrize("stage", [LabelAffinity("seam"), LabelIRN("irn")])
def test_labels_to_train_on_are_ignored_where_two_backgrounds_disagree(stripes, stage):
    """Score 0.15: background at alpha 4 (0.52) and not at 24 (0.02), and at 0.30 and not at 0.05."""
    (result,), failures = apply(stage, [stripes])
    assert not failures
    np.testing.assert_array_equal(result.mask, np.repeat(np.uint8([3, 255, 0]), 20)[None].repeat(24, axis=0))


def test_an_image_without_classes_passes_every_stage(scored):
    empty = scored._replace(class_ids=(), scores=scored.scores[:0])
    background = Background(threshold=0.3)
    for stage in (RefinePAMR(), RefineCRF(background, "seam", "labels"), LabelPixels(background)):
        (empty,), failures = apply(stage, [empty])
        assert not failures
    assert not empty.mask.any()
    for stage in (LabelAffinity("seam"), LabelIRN("irn")):
        (labeled,), _ = apply(stage, [empty])
        assert not labeled.mask.any()


def test_what_a_stage_cannot_refine_is_a_failure_with_its_reason(scored):
    mis_sized = scored._replace(scores=scored.scores[:, :-1])
    results, (failure,) = apply(RefineCRF(Background(threshold=0.3), "seam", "labels"), [mis_sized])
    assert not results
    assert (failure.image_id, failure.stage) == ("image_02", "refine")
    assert "unary must be (24, 32" in failure.reason


def test_a_model_that_cannot_be_loaded_fails_the_job_and_not_each_image(scored, tmp_path):
    walk = RefineWalk(Background(threshold=0.3), (str(tmp_path / "gone.keras"), "hash", 1024))
    with pytest.raises(UserError, match="no model at"):
        apply(walk, [scored])
