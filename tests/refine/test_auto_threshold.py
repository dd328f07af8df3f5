"""The background threshold that is chosen without masks."""

import numpy as np
import pytest

from wsss.refine.auto_threshold import ThresholdAgreement


def scene(seed, level, size=48):
    """An image with a bright square, and scores that cross `level` where the square ends."""
    rng = np.random.default_rng(seed)
    top, left = rng.integers(8, 18, 2)
    y, x = np.mgrid[:size, :size]
    outside = np.maximum(np.maximum(top - y, y - top - 20), np.maximum(left - x, x - left - 20))
    image = np.where(outside[..., None] <= 0, [220, 190, 60], [40, 60, 90]) + rng.normal(
        0, 3, (size, size, 3)
    )
    scores = np.clip(level - 0.04 * outside, 0, 1)[None].astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8), scores


@pytest.mark.parametrize("level", [0.2, 0.4])
def test_threshold_is_near_the_score_at_the_edges_of_things(level):
    agreement = ThresholdAgreement(np.arange(1, 12) / 20)
    for seed in range(4):
        agreement.update(*scene(seed, level))
    threshold, rule = agreement.choose()
    assert threshold == pytest.approx(level, abs=0.101)
    assert rule == "agreement"


def test_maps_that_follow_no_edge_leave_it_to_the_mean_score():
    image, _ = scene(0, 0.3)
    scores = np.linspace(0, 1, 48 * 48, dtype=np.float32).reshape(1, 48, 48) ** 0.5
    agreement = ThresholdAgreement([0.01, 0.9, 0.99])
    agreement.update(image, scores)
    assert agreement.values().argmax() != 1
    threshold, rule = agreement.choose()
    assert (threshold, rule) == (pytest.approx(scores.mean(), abs=1e-5), "mean score")


def test_agreements_of_parts_add_up_in_any_order():
    parts = [ThresholdAgreement() for _ in range(3)]
    whole = ThresholdAgreement()
    for seed, part in enumerate(parts):
        part.update(*scene(seed, 0.3))
        whole.update(*scene(seed, 0.3))
    one, two, three = parts
    for total in ((one + two) + three, three + (two + one)):
        np.testing.assert_array_equal(total.values(), whole.values())
        assert (total.choose(), total.mean_score()) == (whole.choose(), whole.mean_score())
        assert total.pixels == 3 * 48 * 48


def test_images_without_classes_say_nothing():
    agreement = ThresholdAgreement()
    agreement.update(scene(0, 0.3)[0], np.zeros((0, 48, 48)))
    assert agreement.choose() == (None, "")


def test_large_images_are_reduced():
    image, scores = scene(0, 0.3, size=300)
    agreement = ThresholdAgreement([0.1, 0.3, 0.5])
    agreement.update(image, scores)
    assert agreement.choose() == (0.3, "agreement")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ThresholdAgreement([0.3, 0.2]), "ascending"),
        (lambda: ThresholdAgreement([]), "at least one"),
        (lambda: ThresholdAgreement([0.5, 1.5]), r"in \[0, 1\]"),
        (lambda: ThresholdAgreement() + ThresholdAgreement([0.5]), "same thresholds"),
        (
            lambda: ThresholdAgreement().update(np.zeros((4, 5, 3), np.uint8), np.zeros((1, 4, 6))),
            "size of the image",
        ),
        (
            lambda: ThresholdAgreement().update(np.zeros((4, 5, 3), np.uint8), np.full((1, 4, 5), np.nan)),
            "without NaN",
        ),
    ],
)
def test_bad_input_gives_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
