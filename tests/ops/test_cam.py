"""Normalisation, background and merging of maps: the authors' numbers and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tests.golden import assert_close, golden_cases
from tests.gradients import compiled, gradients
from wsss.ops.cam import (
    add_background,
    background_score,
    image_scores,
    mask_classes,
    max_normalize,
    max_normalize_thresholded,
    max_onehot,
    max_scale,
    merge_scales,
    min_max_normalize,
)

NORMALIZATIONS = {
    "max_normalize": (max_normalize, 0.0),
    "max_normalize_thresholded": (max_normalize_thresholded, -1.0),
    "min_max_normalize": (min_max_normalize, -1.0),
}
properties = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**32 - 1)


def random_maps(seed, shape=(2, 5, 6, 4), scale=1.0):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype("float32")


def run(function, *arrays):
    return ops.convert_to_numpy(function(*map(ops.convert_to_tensor, arrays)))


@golden_cases("a_pieces")
def test_building_blocks_equal_the_authors(case):
    maps = case.channels_last("x")
    normalized = run(max_normalize, maps)
    assert_close(normalized, case.channels_last("max_norm"), atol=1e-6)
    assert_close(run(max_normalize_thresholded, maps), case.channels_last("max_norm_np_variant"), atol=1e-6)
    # The authors leave their background channel out of the maximum, and untouched.
    onehot = np.concatenate([normalized[..., :1], run(max_onehot, normalized[..., 1:])], axis=-1)
    assert_close(onehot, case.channels_last("max_onehot_of_max_norm"), atol=1e-6)


@golden_cases("e_merge")
def test_merged_scales_and_mirrors_equal_the_authors(case):
    def maps(flip):
        names = sorted(key for key in case.keys if key.endswith(f"_flip{flip}"))
        return [ops.convert_to_tensor(np.moveaxis(case[name][1:], 0, -1)[None]) for name in names]

    labels = ops.convert_to_tensor(case["label20"][None])
    merged = merge_scales(maps(0), maps(1), labels, tuple(map(int, case["orig_size_hw"])))
    normalized = np.moveaxis(ops.convert_to_numpy(min_max_normalize(merged))[0], -1, 0)
    assert_close(normalized, case["norm_cam_all"], atol=1e-5)
    assert_close(normalized[case["keys"]], case["norm_cam_present"], atol=1e-5)
    above = np.where(normalized > 0, np.moveaxis(ops.convert_to_numpy(merged)[0], -1, 0), 0)
    assert_close(above, case["sum_cam_after_threshold"], rtol=1e-5, atol=1e-5)


@golden_cases("i_irn_cam_merge")
def test_merged_scales_of_irn_equal_the_authors(case):
    names = sorted(key for key in case.keys if key.startswith("net_out_scale"))
    outputs = [ops.convert_to_tensor(np.moveaxis(case[name], 0, -1)[None]) for name in names]
    labels = ops.convert_to_tensor(case["label20"][None])
    height, width = map(int, case["size_hw"])

    def merged(size):
        cam = ops.convert_to_numpy(max_scale(merge_scales(outputs, [], labels, size)))
        return np.moveaxis(cam[0, :height, :width], -1, 0)[case["keys"]]

    strided = (height - 1) // 4 + 1, (width - 1) // 4 + 1
    assert_close(merged(strided), case["strided_cam"], atol=1e-5)
    full = ops.convert_to_numpy(
        merge_scales(outputs, [], labels, (-(-height // 16) * 16, -(-width // 16) * 16))
    )
    highres = run(max_scale, full[:, :height, :width])
    assert_close(np.moveaxis(highres[0], -1, 0)[case["keys"]], case["highres_cam"], atol=1e-5)


@pytest.mark.parametrize("name", NORMALIZATIONS)
@properties
@given(seed=seeds, scale=st.sampled_from([1e-6, 1e-2, 1.0, 1e4]))
def test_normalized_maps_keep_their_bounds(name, seed, scale):
    normalize, low = NORMALIZATIONS[name]
    normalized = run(normalize, random_maps(seed, scale=scale))
    assert normalized.min() >= low
    assert normalized.max() <= 1


@pytest.mark.parametrize("name", NORMALIZATIONS)
@properties
@given(seed=seeds)
def test_normalization_treats_classes_and_images_alone(name, seed):
    normalize, _ = NORMALIZATIONS[name]
    maps, rng = random_maps(seed), np.random.default_rng(seed)
    images, classes = rng.permutation(2), rng.permutation(4)
    expected = run(normalize, maps)[images][..., classes]
    np.testing.assert_array_equal(run(normalize, maps[images][..., classes]), expected)


@pytest.mark.parametrize("value", [-1.0, 0.0, 2.0])
def test_constant_maps_normalize_to_nothing(value):
    maps = np.full((1, 3, 3, 2), value, "float32")
    assert not run(max_normalize, maps).any()
    assert (run(min_max_normalize, maps) <= 0).all()
    assert np.isfinite(run(max_normalize_thresholded, maps)).all()


def test_gradient_of_constant_and_negative_maps_is_zero_and_finite():
    for value in (-1.0, 0.0, 2.0):
        (gradient,) = gradients(lambda x: ops.sum(max_normalize(x)), np.full((1, 3, 3, 2), value, "float32"))
        assert not gradient.any()


def test_gradient_of_the_normalization_flows_through_the_extremes():
    maps = np.arange(1, 5, dtype="float32").reshape(1, 2, 2, 1)
    (gradient,) = gradients(lambda x: ops.sum(max_normalize(x)), maps)
    # Moving all values together changes nothing: the gradient sums to 0 only with the extremes' part.
    assert gradient.sum() == pytest.approx(0, abs=1e-5)
    assert gradient[0, 1, 1, 0] < 0


def test_maximum_stays_and_exact_ties_all_stay():
    maps = np.array([[0.2, 0.5, 0.1], [0.3, 0.3, 0.1]], "float32").reshape(1, 1, 2, 3)
    expected = np.array([[0, 0.5, 0], [0.3, 0.3, 0]], "float32").reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(run(max_onehot, maps), expected)


@properties
@given(seed=seeds, exponent=st.sampled_from([1.0, 4.0, 24.0]))
def test_background_falls_with_the_foreground_and_the_exponent(seed, exponent):
    maps = np.random.default_rng(seed).random((1, 4, 4, 3), "float32")
    score = run(lambda x: background_score(x, exponent), maps)
    expected = (1 - maps.max(axis=-1, keepdims=True)) ** exponent
    np.testing.assert_allclose(score, expected, atol=1e-6)
    np.testing.assert_array_equal(run(add_background, maps)[..., 1:], maps)


def test_exponent_that_is_not_positive_is_an_error():
    with pytest.raises(ValueError, match="`exponent` must be positive"):
        background_score(ops.zeros((1, 1, 1, 1)), 0)


@properties
@given(seed=seeds)
def test_absent_classes_never_score(seed):
    maps, labels = random_maps(seed), np.array([[1, 0, 0, 1], [0, 1, 0, 0]], "float32")
    masked = run(mask_classes, maps, labels)
    assert not masked[0, ..., 1:3].any()
    np.testing.assert_array_equal(masked[1, ..., 1], maps[1, ..., 1])
    merged = ops.convert_to_tensor(maps)
    merged = ops.convert_to_numpy(merge_scales([merged], [merged], ops.convert_to_tensor(labels), (7, 9)))
    assert not merged[1, ..., [0, 2, 3]].any()
    assert (run(min_max_normalize, merged)[1, ..., [0, 2, 3]] == -1).all()


def test_mirrored_maps_alone_are_mirrored_back():
    maps, labels = random_maps(3), np.ones((2, 4), "float32")
    tensor, mirrored = map(ops.convert_to_tensor, (maps, maps[:, :, ::-1].copy()))
    once = ops.convert_to_numpy(merge_scales([tensor], [], labels, (9, 11)))
    both = ops.convert_to_numpy(merge_scales([tensor], [mirrored], labels, (9, 11)))
    np.testing.assert_allclose(both, 2 * once, atol=1e-5)


def test_image_score_is_the_mean_of_the_map():
    maps = random_maps(5)
    np.testing.assert_allclose(run(image_scores, maps), maps.mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_compiled_normalization_equals_the_eager_one(name):
    normalize, _ = NORMALIZATIONS[name]
    maps = random_maps(7)
    np.testing.assert_allclose(compiled(normalize)(maps), run(normalize, maps), atol=1e-6)
