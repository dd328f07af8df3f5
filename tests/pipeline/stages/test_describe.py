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
from wsss.pipeline.stages.refine import ScoredImage

GIVEN, PREDICTED = (DescribeSettings(0.5, predicted, 0.2) for predicted in (False, True))


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
