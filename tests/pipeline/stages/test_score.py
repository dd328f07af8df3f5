"""Tallies: counts of one image by hand, sums in any order, JSON and back."""

import json
from itertools import permutations

import numpy as np
import pytest

from tests.pseudo_label_cases import make_records
from wsss.pipeline.dead_letter import Failure
from wsss.pipeline.stages.read import InputImage
from wsss.pipeline.stages.refine import ScoredImage
from wsss.pipeline.stages.score import Tally, tally_image


@pytest.fixture
def tallies():
    rng = np.random.default_rng(0)
    result = [Tally(failures=(Failure("shard", "broken", "decode", "why"),))]
    for record in make_records(3):
        size = (record.height, record.width)
        scores = rng.random((len(record.labels), *size), np.float32)
        mask = rng.integers(0, 4, size).astype(np.uint8)
        classifier = rng.random(3, np.float32)
        scored = ScoredImage(InputImage("shard", record, False), record.labels, scores, classifier, mask=mask)
        result.append(tally_image(scored, 4))
    return result


def test_an_image_is_counted_as_by_hand(tallies):
    record = make_records(3)[2]
    tally = tallies[3]
    assert tally.images == 1
    assert tally.class_pixels.sum() == record.height * record.width
    assert tally.confusion.sum() == record.height * record.width - 1  # one pixel of the truth is unknown
    assert (tally.present_scores[0], tally.absent_scores[0]) == (2, 1)
    assert 0 < tally.present_scores[1] < 2_000_000


def test_the_sum_is_the_same_in_any_order_and_grouping(tallies):
    states = set()
    for first, second, third, fourth in permutations(tallies):
        states.add(json.dumps(((first + second) + (Tally() + third + fourth)).state()))
    assert len(states) == 1


def test_a_tally_survives_json(tallies):
    state = sum(tallies, Tally()).state()
    restored = Tally.from_state(json.loads(json.dumps(state)))
    assert restored.state() == state
    assert restored.failures == (Failure("shard", "broken", "decode", "why"),)
    assert Tally.from_state(json.loads(json.dumps(Tally().state()))).state() == Tally().state()


def test_a_state_holds_what_is_not_zero_and_lists_of_earlier_versions_are_read(tallies):
    tally = sum(tallies, Tally())
    pixels = tally.state()["class_pixels"]
    assert pixels["shape"] == [256]
    assert pixels["counts"] == {str(label): int(tally.class_pixels[label]) for label in range(4)}
    assert tally.state()["present_scores"] == tally.present_scores.tolist()  # no zeros: a list is shorter
    lists = {name: getattr(tally, name).tolist() for name in ("class_pixels", "class_images", "confusion")}
    assert Tally.from_state({**tally.state(), **lists}).state() == tally.state()


@pytest.mark.parametrize(
    ("shape", "counts"),
    [
        ([4], {"4": 1}),
        ([4], {"-1": 1}),
        ([10**6, 10**6], {}),
        ([4], {"a": 1}),
        ([-4], {"0": 1}),
        ([], {"1": 1}),
    ],
)
def test_counts_outside_of_their_shape_are_refused(shape, counts):
    state = {**Tally().state(), "class_pixels": {"shape": shape, "counts": counts}}
    with pytest.raises(ValueError, match=r"outside|invalid literal|negative"):
        Tally.from_state(state)


def test_a_truth_of_another_size_is_refused(tallies):
    record = make_records(1)[0]
    scored = ScoredImage(
        InputImage("shard", record, False),
        (),
        np.zeros((0, 3, 3), np.float32),
        np.zeros(3, np.float32),
        mask=np.zeros((3, 3), np.uint8),
    )
    with pytest.raises(ValueError, match="differ in shape"):
        tally_image(scored, 4)


@pytest.mark.parametrize("counts", ["x", [1], 3, None])
def test_counts_that_are_no_object_are_refused(counts):
    state = {**Tally().state(), "class_pixels": {"shape": [4], "counts": counts}}
    with pytest.raises(TypeError, match="counts that are no object"):
        Tally.from_state(state)
