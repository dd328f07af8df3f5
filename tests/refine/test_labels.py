"""Labels that the affinity networks are trained on, against recordings of the authors' programs."""

import numpy as np
import pytest

from tests.golden import assert_close, golden_cases
from wsss.inference.cam_scores import mean_of_cells
from wsss.ops.interpolation import interpolation_matrix
from wsss.refine.crf import DenseCRF
from wsss.refine.labels import affinity_labels, irn_labels


def one_hot(labels, count):
    return np.eye(count, dtype=np.float32)[np.asarray(labels)]


def test_affinity_labels_are_classes_and_background_where_both_readings_agree():
    low, high = one_hot([[0, 1, 2, 0, 1]], 3), one_hot([[0, 1, 1, 1, 0]], 3)
    labels = affinity_labels(low, high)
    np.testing.assert_array_equal(labels, [[0, 1, 2, 255, 0]])
    assert labels.dtype == np.uint8


def test_a_pixel_without_scores_is_ignored():
    scores = np.array([[[0, 0.5], [0, 0], [0.5, 0]]], np.float32)
    np.testing.assert_array_equal(affinity_labels(scores, scores), [[1, 255, 0]])


def test_irn_labels_take_classes_at_the_high_and_background_at_the_low_threshold():
    """Three wide stripes of one color each, which the CRF keeps apart: scores of 0.6, 0.15 and 0."""
    scores = np.repeat(np.float32([[0.6], [0.15], [0.0]]), 20, axis=0)[None].repeat(20, axis=0)
    image = (scores * 400).astype(np.uint8).repeat(3, axis=2)
    labels = irn_labels(scores, DenseCRF(image, "irn"))
    np.testing.assert_array_equal(labels, np.repeat(np.uint8([1, 255, 0]), 20)[None].repeat(20, axis=0))
    assert labels.dtype == np.uint8


BLACK = np.zeros((2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: affinity_labels(np.zeros((2, 2, 3)), np.zeros((2, 2, 4))), "same shape"),
        (lambda: affinity_labels(np.zeros((2, 2, 0)), np.zeros((2, 2, 0))), "1 to 255 labels"),
        (lambda: irn_labels(np.full((2, 2, 1), np.nan), DenseCRF(BLACK)), "must be finite"),
        (lambda: irn_labels(np.zeros((2, 3, 1)), DenseCRF(BLACK)), "size of the image"),
        (lambda: irn_labels(np.zeros((2, 2, 255)), DenseCRF(BLACK)), "at most 254 classes"),
    ],
)
def test_bad_input_gives_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@golden_cases("f_afflabel")
def test_affinity_labels_equal_the_published_ones(case):
    scores = np.moveaxis(case["la_ha_scores_hwc"], 2, 0)
    pooled = mean_of_cells(scores, [side // 8 for side in scores.shape[1:]])
    pooled = np.moveaxis(pooled, 0, 2)
    assert_close(pooled, case["pooled"], atol=1e-6)
    labels = pooled.shape[2] // 2
    np.testing.assert_array_equal(
        affinity_labels(pooled[..., :labels], pooled[..., labels:]), case["label_map"]
    )


@golden_cases("i_irn_cam_merge")
def test_irn_labels_equal_the_published_ones(case):
    height, width = case["size_hw"]
    keys = case["keys"]
    strided, highres = [], []
    for index in range(4):
        scale = case[f"net_out_scale{index}"][case["label20"] > 0]
        low = [
            interpolation_matrix((side - 1) // 4 + 1, given)
            for side, given in zip((height, width), scale.shape[1:])
        ]
        full = [
            interpolation_matrix(-(-side // 16) * 16, given)
            for side, given in zip((height, width), scale.shape[1:])
        ]
        strided.append(low[0] @ scale @ low[1].T)
        highres.append((full[0] @ scale @ full[1].T)[:, :height, :width])
    strided, highres = sum(strided), sum(highres)
    strided /= strided.max((1, 2), keepdims=True) + 1e-5
    highres /= highres.max((1, 2), keepdims=True) + 1e-5
    assert_close(strided, case["strided_cam"], atol=1e-5)
    assert_close(highres, case["highres_cam"], atol=1e-5)
    ours = irn_labels(np.moveaxis(case["highres_cam"], 0, 2), DenseCRF(case["image"], "irn"))
    ids = np.concatenate([[0], keys + 1, np.full(255 - len(keys), 255)])
    assert (ids[ours] == case["ir_label"]).mean() >= 0.995
