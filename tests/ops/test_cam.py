"""Normalization and background of maps: the authors' numbers and properties."""

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
    mask_classes,
    max_normalize,
    max_onehot,
    min_max_normalize,
)

NORMALIZATIONS = {
    "max_normalize": (max_normalize, 0.0),
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
    # The authors leave their background channel out of the maximum, and untouched.
    onehot = np.concatenate([normalized[..., :1], run(max_onehot, normalized[..., 1:])], axis=-1)
    assert_close(onehot, case.channels_last("max_onehot_of_max_norm"), atol=1e-6)


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
    assert not masked[1, ..., [0, 2, 3]].any()
    assert (run(min_max_normalize, masked)[1, ..., [0, 2, 3]] == -1).all()


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_compiled_normalization_equals_the_eager_one(name):
    normalize, _ = NORMALIZATIONS[name]
    maps = random_maps(7)
    np.testing.assert_allclose(compiled(normalize)(maps), run(normalize, maps), atol=1e-6)
