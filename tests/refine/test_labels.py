"""Labels for the affinity networks."""

import numpy as np
import pytest

from tests.golden import assert_close, golden_cases
from wsss.ops.interpolation import interpolation_matrix
from wsss.refine.crf.dense_crf import DenseCRF
from wsss.refine.labels import _mean_of_squares, affinity_labels, combine_confident, irn_labels


def one_hot(labels, count):
    return np.eye(count, dtype=np.float32)[np.asarray(labels)]


def test_affinity_labels_need_both_readings():
    low, high = one_hot([[0, 1, 2, 0, 1]], 3), one_hot([[0, 1, 1, 1, 0]], 3)
    np.testing.assert_array_equal(affinity_labels(low, high, side=1), [[0, 1, 2, 255, 0]])


def test_squares_without_scores_are_undecided():
    scores = np.zeros((2, 3, 2), np.float32)
    scores[:, :2, 1] = 0.5
    np.testing.assert_array_equal(affinity_labels(scores, scores, side=2), [[1, 255]])


def test_irn_labels_combine_as_told():
    combined = combine_confident(np.array([3, 0, 0, 2]), np.array([3, 0, 1, 0]))
    np.testing.assert_array_equal(combined, [3, 0, 255, 2])
    assert combined.dtype == np.uint8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: affinity_labels(np.zeros((2, 2, 3)), np.zeros((2, 2, 4))), "same shape"),
        (lambda: affinity_labels(np.zeros((2, 2, 0)), np.zeros((2, 2, 0))), "1 to 255 labels"),
        (lambda: affinity_labels(np.zeros((2, 2, 3)), np.zeros((2, 2, 3)), side=0), "`side` must be"),
        (lambda: combine_confident(np.zeros((2, 2)), np.zeros((2, 3))), "same shape"),
        (
            lambda: irn_labels(np.full((2, 2, 1), np.nan), DenseCRF(np.zeros((2, 2, 3), np.uint8))),
            "must be finite",
        ),
        (
            lambda: irn_labels(np.zeros((2, 3, 1)), DenseCRF(np.zeros((2, 2, 3), np.uint8))),
            "size of the image",
        ),
    ],
)
def test_bad_input_gives_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@golden_cases("f_afflabel")
def test_affinity_labels_equal_the_published_ones(case):
    scores = case["la_ha_scores_hwc"]
    labels = scores.shape[2] // 2
    assert_close(_mean_of_squares(scores, 8), case["pooled"], atol=1e-6)
    ours = affinity_labels(scores[..., :labels], scores[..., labels:])
    np.testing.assert_array_equal(ours, case["label_map"])


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
