"""Scores and masks of one image: hand-worked values, properties, and the published merge."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.golden import assert_close, golden_cases
from wsss.inference.cam_scores import (
    adapted_threshold,
    background_scores,
    enlarge_cells,
    mask_from_scores,
    mean_of_cells,
    merge_scales,
    normalize_scores,
    otsu_threshold,
    scaled_size,
    view_agreement,
)
from wsss.ops.cam import background_score, min_max_normalize
from wsss.ops.interpolation import interpolation_matrix, upsampling_matrix

SIZES = st.integers(1, 40)


def test_half_pixel_interpolation_worked_out_by_hand():
    expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_allclose(interpolation_matrix(4, 2), expected)


def test_aligned_corners_interpolation_worked_out_by_hand():
    expected = [[1, 0], [2 / 3, 1 / 3], [1 / 3, 2 / 3], [0, 1]]
    np.testing.assert_allclose(interpolation_matrix(4, 2, align_corners=True), expected)


@settings(deadline=None, max_examples=50)
@given(SIZES, SIZES, st.booleans())
def test_interpolation_keeps_constants_and_commutes_with_mirroring(out_size, in_size, align_corners):
    assume(not align_corners or out_size > 1 or in_size == 1)  # one pixel is the first, as in PyTorch
    matrix = interpolation_matrix(out_size, in_size, align_corners)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-12)


@pytest.mark.parametrize(("size", "out"), [((5, 7), (13, 9)), ((40, 3), (11, 30))])
def test_half_pixel_interpolation_equals_opencv(size, out):
    image = np.random.default_rng(0).normal(size=size).astype(np.float32)
    expected = cv2.resize(image, out[::-1], interpolation=cv2.INTER_LINEAR)
    rows, columns = (interpolation_matrix(o, i) for o, i in zip(out, size, strict=True))
    np.testing.assert_allclose(rows @ image @ columns.T, expected, atol=1e-5)


def test_a_size_of_zero_is_refused():
    with pytest.raises(ValueError, match="positive"):
        interpolation_matrix(0, 3)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 3), st.integers(0, 2**31))
def test_the_merge_equals_resizing_every_map_twice(classes, seed):
    rng = np.random.default_rng(seed)
    size, sizes = (9, 14), [(5, 7), (9, 14), (18, 28)]
    cams = [rng.normal(size=(classes, 3, 4)).astype(np.float32) for _ in sizes]
    expected = np.zeros((classes, *size))
    for cam, (height, width) in zip(cams, sizes, strict=True):
        for index in range(classes):
            inner = (
                interpolation_matrix(height, 3, True) @ cam[index] @ interpolation_matrix(width, 4, True).T
            )
            expected[index] += interpolation_matrix(9, height) @ inner @ interpolation_matrix(14, width).T
    np.testing.assert_allclose(merge_scales(cams, sizes, size), expected, atol=1e-5)


@golden_cases("e_merge")
def test_the_merge_of_scales_and_mirrors_equals_the_published_one(case):
    size = tuple(int(side) for side in case["orig_size_hw"])
    class_ids = case["keys"]
    scales = sum(key.endswith("flip0") for key in case.keys)
    cams = []
    for scale in range(scales):
        straight, mirrored = (case[f"cam_rv_scale{scale}_flip{flip}"][1:][class_ids] for flip in (0, 1))
        cams.append(straight + mirrored[:, :, ::-1])
    # the recorded maps are at the scaled image's size already: the first of the two matrices is the identity
    summed = merge_scales(cams, [cam.shape[1:] for cam in cams], size)
    scores = normalize_scores(summed)

    published = case["norm_cam_all"]
    assert_close(scores, np.maximum(published[class_ids], 0), atol=1e-5)
    assert_close(scores, np.maximum(case["norm_cam_present"], 0), atol=1e-5)
    absent = np.setdiff1d(np.arange(len(published)), class_ids)
    assert np.all(published[absent] == -1)
    np.testing.assert_array_equal(case["label20"].nonzero()[0], class_ids)
    # what the published code sets to zero lies within epsilon of the minimum; there our score is zero too
    thresholded = case["sum_cam_after_threshold"][class_ids]
    assert np.all(scores[thresholded == 0] == 0)
    rectified = np.maximum(summed, 0)
    np.testing.assert_allclose(rectified[thresholded > 0], thresholded[thresholded > 0], atol=1e-5)
    for index, (height, width) in enumerate(case["scale_sizes_hw"][:: len(case["scale_sizes_hw"]) // scales]):
        assert cams[index].shape[1:] == (height, width)

    mask = mask_from_scores(scores, class_ids, background_scores(scores, threshold=0.26))
    assert np.mean(mask == case["pred_alpha026"]) >= 0.999


@golden_cases("i_irn_cam_merge")
def test_the_merge_of_irn_equals_the_published_one(case):
    """IRN divides by the maximum where SEAM stretches from the minimum."""
    class_ids = case["keys"]
    cams = [case[name][class_ids] for name in sorted(case.keys) if name.startswith("net_out_scale")]
    height, width = map(int, case["size_hw"])

    def merged(size):
        cam = np.maximum(merge_scales(cams, [cam.shape[1:] for cam in cams], size), 0)[:, :height, :width]
        return cam / (cam.max(axis=(1, 2), keepdims=True) + 1e-5)

    assert_close(merged(((height - 1) // 4 + 1, (width - 1) // 4 + 1)), case["strided_cam"], atol=1e-5)
    assert_close(merged((-(-height // 16) * 16, -(-width // 16) * 16)), case["highres_cam"], atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([1e-6, 1.0, 1e4]))
def test_scores_are_those_of_training_from_zero_on(seed, scale):
    maps = (np.random.default_rng(seed).normal(size=(3, 5, 6)) * scale).astype(np.float32)
    channels_last = np.moveaxis(maps, 0, -1)[None]
    of_training = np.asarray(min_max_normalize(channels_last))[0]
    scores = normalize_scores(maps)
    np.testing.assert_allclose(scores, np.maximum(np.moveaxis(of_training, -1, 0), 0), atol=1e-6)
    background = np.asarray(background_score(np.moveaxis(scores, 0, -1)[None], 4.0))[0, ..., 0]
    np.testing.assert_allclose(background_scores(scores, alpha=4), background, atol=1e-6)


def test_scaled_sizes_are_rounded_half_to_even_and_never_zero():
    assert scaled_size((31, 33), 0.5) == (16, 16)
    assert scaled_size((1, 500), 0.5) == (1, 250)


def test_scores_lie_between_zero_and_one_and_a_flat_class_is_zero():
    summed = np.stack([np.array([[-1.0, 1.0], [2.0, 3.0]]), np.full((2, 2), 7.0), np.full((2, 2), -7.0)])
    scores = normalize_scores(summed.astype(np.float32))
    np.testing.assert_allclose(scores[0], [[0, 1 / 3], [2 / 3, 1]], atol=2e-5)
    assert np.all(scores[1:] == 0)


def test_the_power_background_worked_out_by_hand():
    scores = np.array([[[0.5, 0.0]], [[0.25, 1.0]]], np.float32)
    np.testing.assert_allclose(background_scores(scores, alpha=2), [[0.25, 0]])


def test_without_classes_everything_is_background():
    scores = normalize_scores(np.zeros((0, 2, 3), np.float32))
    for background in (background_scores(scores, threshold=0.0), background_scores(scores, alpha=4)):
        assert mask_from_scores(scores, [], background).tolist() == [[0, 0, 0]] * 2


def test_ties_go_to_the_background_and_then_to_the_smaller_class():
    scores = np.array([[[0.5, 0.6]], [[0.5, 0.6]]], np.float32)
    background = background_scores(scores, threshold=0.5)
    assert mask_from_scores(scores, [2, 7], background).tolist() == [[0, 3]]


def test_a_background_needs_exactly_one_rule():
    with pytest.raises(ValueError, match="either"):
        background_scores(np.zeros((1, 1, 1), np.float32), threshold=0.2, alpha=4)


def test_the_composed_matrix_is_the_two_in_a_row():
    expected = interpolation_matrix(30, 45) @ interpolation_matrix(45, 3, True)
    np.testing.assert_allclose(upsampling_matrix(30, 45, 3), expected, atol=1e-6)


def test_cells_hold_means_and_zeros_beyond_the_edge():
    scores = np.arange(15, dtype=np.float32).reshape(1, 3, 5)
    cells = mean_of_cells(scores, (2, 3))
    np.testing.assert_allclose(cells[0], [[3, 5, 3.25], [5.25, 6.25, 3.5]])
    assert enlarge_cells(cells, (3, 5)).shape == (1, 3, 5)


@golden_cases("f_rw")
def test_the_way_to_the_grid_of_the_walk_and_back_equals_the_published_one(case):
    cams, class_ids = case["cams"], case["keys"]
    pooled = case["cam_pooled21"]
    np.testing.assert_allclose(mean_of_cells(cams, pooled.shape[1:]), pooled[class_ids + 1], atol=1e-6)
    walked = case["cam_rw_low"]
    if not case["crf"]:
        enlarged = enlarge_cells(walked, cams.shape[1:])
        height, width = cams.shape[1:]
        recorded = case["cam_rw_up_rows"][:, :height, :width]
        assert_close(enlarged[case["rw_rows"]], recorded, rtol=1e-5)
        assert np.mean(enlarged.argmax(axis=0) == case["pred"]) >= 0.999


def test_views_agree_by_the_correlation_of_their_maps():
    first = np.array([[[1.0, 0.0, -1.0]], [[0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]]])
    second = np.array([[[5.0, 3.0, 1.0]], [[3.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]]])
    # a multiple of the same map, a constant one, and two that exclude each other (correlation -0.5)
    np.testing.assert_allclose(view_agreement(first, second), [1, 0, 0], atol=1e-6)
    first[2] = [[2, 0, 1]]
    second[2] = [[1, 0, 0]]
    np.testing.assert_allclose(view_agreement(first, second)[2], np.sqrt(3) / 2, atol=1e-6)


def test_otsus_threshold_parts_two_groups_of_values():
    values = np.array([0.1, 0.12, 0.14, 0.8, 0.9, 0.85, 0.1])
    threshold = otsu_threshold(values)
    assert 0.14 < threshold < 0.8
    best = max(np.linspace(0.05, 0.95, 91), key=lambda t: _variance_between(values, t))
    assert _variance_between(values, threshold) == pytest.approx(_variance_between(values, best))
    assert 0 < otsu_threshold(np.zeros((2, 2))) < 1
    assert 0 < otsu_threshold(np.ones((2, 2))) < 1


def _variance_between(values, threshold):
    low, high = values[values <= threshold], values[values > threshold]
    if not len(low) or not len(high):
        return 0.0
    return len(low) * len(high) * (low.mean() - high.mean()) ** 2


def test_a_threshold_lies_between_that_of_the_collection_and_that_of_the_image():
    scores = np.random.default_rng(0).random((2, 8, 8), np.float32) ** 3
    own = otsu_threshold(scores.max(axis=0))
    assert adapted_threshold(scores, 0.4, 0) == 0.4
    assert adapted_threshold(scores, 0.4, 1) == own
    assert adapted_threshold(scores, 0.4, 0.75) == pytest.approx(0.75 * own + 0.25 * 0.4)
    assert adapted_threshold(scores, 0.1, 0.75) == pytest.approx(0.15)  # no more than half as much again
    assert adapted_threshold(scores[:0], 0.4, 0.75) == 0.4
