"""Counts, IoU, the sweep over thresholds and average precision."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import assert_close, golden_cases
from wsss.metrics import (
    Counts,
    ThresholdSweep,
    average_precision,
    confusion_matrix,
    counts_of,
    iou,
    mean_iou,
)


def random_image(rng, classes=4, class_ids=(0, 2), size=(7, 9)):
    """Scores with many ties among themselves and with the thresholds, and a truth with unknown pixels."""
    scores = rng.integers(0, 101, (len(class_ids), *size)).astype(np.float32) / 100
    truth = rng.integers(0, classes + 1, size).astype(np.uint8)
    truth[truth == classes] = 255
    return scores, class_ids, truth


def repeated_argmax(images, classes, thresholds):
    """The slow, obvious sweep."""
    counts = np.zeros((3, len(thresholds), classes), np.int64)
    for scores, class_ids, truth in images:
        full = np.zeros((classes, *truth.shape), np.float32)
        full[np.asarray(class_ids, int) + 1] = scores
        for index, threshold in enumerate(thresholds):
            full[0] = threshold
            prediction = full.argmax(axis=0)
            for label in range(classes):
                known = truth != 255
                counts[0, index, label] += np.sum((prediction == label) & (truth == label) & known)
                counts[1, index, label] += np.sum((prediction == label) & known)
                counts[2, index, label] += np.sum((truth == label) & known)
    return Counts(*counts)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 2**31),
    st.sampled_from([(), (1,), (0, 2), (0, 1, 2), (2, 0), (2, 0, 1), (1, 2, 0)]),
    # spaced as usual; beyond 1; nearer to each other than any table is fine
    st.sampled_from([np.arange(0, 60, 7) / 100, [0.0, 0.2, 1.0, 1.5], [0.5, 0.50001, 0.50002, 0.51]]),
)
def test_one_pass_equals_repeated_argmax_to_the_last_count(seed, class_ids, thresholds):
    rng = np.random.default_rng(seed)
    images = [random_image(rng, class_ids=class_ids) for _ in range(3)]
    sweep = ThresholdSweep(4, thresholds)
    for image in images:
        sweep.update(*image)
    for ours, expected in zip(sweep.counts(), repeated_argmax(images, 4, thresholds), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_of_equal_scores_the_smallest_class_wins_whatever_the_order_of_the_ids():
    truth = np.array([[1, 3]], np.uint8)
    for class_ids in [(0, 2), (2, 0)]:
        sweep = ThresholdSweep(4, [0.5])
        sweep.update(np.full((2, 1, 2), 0.75, np.float32), class_ids, truth)
        counts = sweep.counts()
        assert counts.predicted.tolist() == [[0, 2, 0, 0]]
        assert counts.true_positives.tolist() == [[0, 1, 0, 0]]


def test_sweeps_of_parts_add_up_and_survive_json():
    rng = np.random.default_rng(0)
    images = [random_image(rng) for _ in range(4)]
    whole, first, second = (ThresholdSweep(4) for _ in range(3))
    for index, image in enumerate(images):
        whole.update(*image)
        (first if index % 2 else second).update(*image)
    restored = ThresholdSweep.from_state(json.loads(json.dumps((first + second).state())))
    for ours, expected in zip(restored.counts(), whole.counts(), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_counts_beyond_32_bits_do_not_overflow():
    sweep = ThresholdSweep(2, [0.5])
    sweep.update(np.ones((1, 8, 8), np.float32), [0], np.ones((8, 8), np.uint8))
    for _ in range(30):
        sweep = sweep + sweep
    assert sweep.counts().true_positives[0, 1] == 64 << 30
    assert sweep.best() == (0.5, 0.5)
    assert sweep.best(absent="skip") == (0.5, 1.0)


def test_a_sweep_refuses_what_it_cannot_count():
    sweep = ThresholdSweep(2)
    truth = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="finite"):
        sweep.update(np.full((1, 2, 2), np.nan, np.float32), [0], truth)
    with pytest.raises(ValueError, match="height, width"):
        sweep.update(np.zeros((1, 2, 3), np.float32), [0], truth)
    for class_ids in ([1], [-1]):
        with pytest.raises(ValueError, match=r"different integers in 0\.\.0"):
            sweep.update(np.zeros((1, 2, 2), np.float32), class_ids, truth)
    with pytest.raises(ValueError, match="different integers"):
        sweep.update(np.zeros((2, 2, 2), np.float32), [0, 0], truth)
    with pytest.raises(ValueError, match="Label 7"):
        sweep.update(np.zeros((1, 2, 2), np.float32), [0], truth + np.uint8(7))
    with pytest.raises(ValueError, match="uint8"):
        sweep.update(np.zeros((1, 2, 2), np.float32), [0], truth.astype(np.int64))
    with pytest.raises(ValueError, match="ascending"):
        ThresholdSweep(2, [0.2, 0.1])
    with pytest.raises(ValueError, match="add up"):
        sweep + ThresholdSweep(3)


def test_iou_worked_out_by_hand():
    truth = np.array([[0, 0, 1, 1], [1, 2, 255, 255]], np.uint8)
    prediction = np.array([[0, 1, 1, 1], [255, 0, 2, 0]], np.uint8)
    confusion = confusion_matrix(truth, prediction, 4)
    np.testing.assert_array_equal(confusion, [[1, 1, 0, 0, 0], [0, 2, 0, 0, 1], [1, 0, 0, 0, 0], [0] * 5])
    wrong = counts_of(confusion)
    np.testing.assert_allclose(iou(wrong), [1 / 3, 1 / 2, 0, np.nan])
    np.testing.assert_allclose(mean_iou(wrong), (1 / 3 + 1 / 2) / 4)
    np.testing.assert_allclose(mean_iou(wrong, absent="skip"), (1 / 3 + 1 / 2) / 3)
    np.testing.assert_allclose(iou(counts_of(confusion, "skip")), [1 / 3, 2 / 3, 0, np.nan])
    np.testing.assert_allclose(iou(counts_of(confusion, "background")), [1 / 4, 1 / 2, 0, np.nan])


def test_labels_out_of_range_and_unlike_shapes_are_refused():
    zeros = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="Label 3 in the prediction"):
        confusion_matrix(zeros, zeros + np.uint8(3), 3)
    with pytest.raises(ValueError, match="Label 254 in the truth"):
        confusion_matrix(zeros + np.uint8(254), zeros, 3)
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix(zeros, zeros[:1], 3)


def test_average_precision_worked_out_by_hand():
    scores = np.array([[0.9, 0.5, 0.1], [0.8, 0.5, 0.2], [0.7, 0.1, 0.3]])
    labels = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(average_precision(scores, labels), [(1 + 2 / 3) / 2, 1 / 2, np.nan])


@golden_cases("g_eval")
def test_evaluation_equals_the_published_counts_and_curve(case):
    sweep = ThresholdSweep(21)
    confusion = 0
    for index in range(int(case["n_images"])):
        truth = case[f"gt_{index}"]
        sweep.update(case[f"cam_{index}"], case[f"keys_{index}"], truth)
        confusion = confusion + confusion_matrix(truth, case[f"predpng_{index}"], 21)
    counts = sweep.counts()
    assert_close(100 * mean_iou(counts), case["curve_miou"], atol=1e-4)
    recorded = [key.removeprefix("miou_") for key in case.keys if key.startswith("miou_")]
    for name in recorded:
        if name == "png":
            ours = counts_of(confusion)
        else:
            index = int(np.argmin(np.abs(sweep.thresholds - float(name.removeprefix("npy_t")))))
            ours = Counts(*(part[index] for part in counts))
        np.testing.assert_array_equal(np.stack(ours, axis=1), case[f"TP_P_T_{name}"])
        assert_close(100 * np.nan_to_num(iou(ours)), case[f"iou_{name}"], atol=1e-4)
        assert_close(100 * mean_iou(ours), case[f"miou_{name}"], atol=1e-4)
