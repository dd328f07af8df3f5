"""Rows of the table of images: counts by hand, flags, JSON and back."""

import json

import numpy as np
import pytest

from tests.pseudo_label_cases import make_records
from wsss.common.errors import UserError
from wsss.pipeline.stages.describe import (
    FLAGS,
    DescribeSettings,
    ImageRow,
    count_components,
    describe_image,
)
from wsss.pipeline.stages.read import InputImage
from wsss.pipeline.stages.refine import Background, ScoredImage, Unrefined

GIVEN, PREDICTED = (DescribeSettings(0.5, predicted, Background(0.2)) for predicted in (False, True))


def described(values, class_ids=(0, 2), settings=GIVEN, tags=None):
    """The row of an image of two rows and two columns."""
    record = make_records(3)[2]
    object.__setattr__(record, "labels", class_ids if tags is None else tags)
    mask = np.array(values, np.uint8).reshape(2, 2)
    scores = np.zeros((len(class_ids), 2, 2), np.float32)
    classifier_scores = np.array([0.9, 0.6, 0.25], np.float32)
    image = ScoredImage(InputImage("shard", record, False), class_ids, scores, classifier_scores, mask=mask)
    return describe_image(image, settings)


def test_a_row_holds_what_is_counted_by_hand():
    row = described([0, 0, 1, 3])
    assert row == ImageRow(
        "image_02",
        tags=(0, 2),
        tag_scores=(0.9, 0.25),
        predicted=(0, 1),
        predicted_scores=(0.9, 0.6),
        threshold=0.2,
        fractions=((0, 0.5), (1, 0.25), (3, 0.25)),
        components=2,
        contrast=0.0,
        class_score=0.575,
    )
    assert row.foreground == 0.5


@pytest.mark.parametrize(
    ("values", "class_ids", "settings", "flags"),
    [
        ([0, 1, 3, 3], (0, 2), GIVEN, ()),
        ([0, 1, 1, 0], (0, 2), GIVEN, ("class_missing",)),
        ([0, 0, 0, 0], (0, 2), GIVEN, ("empty",)),
        ([0, 0, 255, 0], (0, 2), GIVEN, ("empty",)),
        ([1, 1, 1, 1], (0,), GIVEN, ("single_value",)),
        ([0, 0, 0, 0], (), GIVEN, ("no_class",)),  # tagged as nothing but background
        ([0, 0, 0, 0], (), PREDICTED, ("no_class", "empty")),
    ],
)
def test_what_is_suspicious_is_flagged(values, class_ids, settings, flags):
    assert described(values, class_ids, settings).flags == flags
    assert set(flags) <= set(FLAGS)


def refined(before, after, class_ids=(0, 2)):
    """The row of an image whose mask a refinement changed."""
    record = make_records(3)[2]
    object.__setattr__(record, "labels", class_ids)
    before, after = (np.array(values, np.uint8).reshape(2, 2) for values in (before, after))
    scores, classifier_scores = np.zeros((len(class_ids), 2, 2), np.float32), np.zeros(3, np.float32)
    image = ScoredImage(InputImage("shard", record, False), class_ids, scores, classifier_scores)
    return describe_image(
        image._replace(mask=after, unrefined=Unrefined(before, np.zeros((2, 2), np.float32))), GIVEN
    )


def test_what_a_refinement_changed_is_measured():
    row = refined([0, 0, 1, 3], [0, 0, 0, 3])
    assert row.changed == 0.25
    assert row.entropy == (1.5, pytest.approx(0.8113, abs=1e-4))
    assert row.flags == ("class_missing", "class_lost")


@pytest.mark.parametrize(
    ("before", "after", "flags"),
    [
        ([0, 0, 1, 3], [0, 0, 0, 0], ("empty", "collapsed", "class_lost")),
        ([0, 0, 1, 1], [1, 1, 1, 1], ("single_value", "class_missing", "collapsed")),
        ([1, 1, 1, 1], [1, 1, 1, 1], ("single_value", "class_missing")),  # nothing was there to collapse
    ],
)
def test_a_refinement_that_flattens_a_mask_is_flagged(before, after, flags):
    row = refined(before, after)
    assert row.flags == flags
    assert row.entropy[1] == 0


def test_regions_are_counted_by_class_and_specks_are_not():
    mask = np.zeros((50, 50), np.uint8)
    mask[5:15, 5:15] = 1
    mask[5:15, 15:25] = 2  # touches the first, of another class
    mask[30:40, 30:40] = 1
    mask[45, 45] = 1  # 0.04 % of the image
    mask[:, 49] = 255
    assert count_components(mask) == 3


def test_a_row_survives_json_and_leaves_out_what_is_unknown():
    for row in (described([0, 0, 1, 3]), ImageRow("broken", flags=("failed",))):
        assert ImageRow.from_json(json.loads(json.dumps(row.to_json())), "manifest.json") == row
    assert ImageRow("broken", flags=("failed",)).to_json() == {"image_id": "broken", "flags": ["failed"]}


@pytest.mark.parametrize(
    "change", [{"image_id": 1}, {"fractions": [1]}, {"flags": "failed"}, {"tags": ["a"]}]
)
def test_a_damaged_row_is_named_in_one_line(change):
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        ImageRow.from_json({**described([0, 0, 1, 3]).to_json(), **change}, "manifest.json")


def test_the_evidence_for_a_quality_score_is_that_of_the_classes_of_the_image():
    record = make_records(3)[2]
    object.__setattr__(record, "labels", (0, 2))
    scores = np.array([[[0.9, 0.1], [0.0, 0.2]], [[0.3, 0.7], [0.1, 0.0]]], np.float32)
    image = ScoredImage(InputImage("shard", record, False), (0, 2), scores, np.float32([0.9, 0.6, 0.3]))
    mask = np.array([[1, 3], [0, 255]], np.uint8)
    row = describe_image(image._replace(mask=mask, agreement=np.float32([0.8, 0.4])), GIVEN)
    assert (row.agreement, row.class_score) == (0.6, 0.6)
    assert row.contrast == pytest.approx((0.9 + 0.7) / 2 - (0.1 + 0.2) / 2)
