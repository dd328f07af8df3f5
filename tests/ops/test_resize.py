"""Bilinear resizing against `numpy.interp` and its own properties."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tests.gradients import compiled, gradients
from wsss.ops.resize import resize_bilinear

SIZES = st.sampled_from([1, 2, 5, 11])


def interpolate(values, size, align_corners, axis):
    """The oracle: linear interpolation along one axis at the source coordinates, by `numpy.interp`."""
    length = values.shape[axis]
    if align_corners:
        source = np.arange(size) * (length - 1) / max(size - 1, 1)
    else:
        source = (np.arange(size) + 0.5) * length / size - 0.5
    return np.apply_along_axis(lambda line: np.interp(source, np.arange(length), line), axis, values)


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@settings(deadline=None, max_examples=20)
@given(size=st.tuples(SIZES, SIZES), out=st.tuples(SIZES, SIZES), align_corners=st.booleans())
def test_any_size_equals_interpolation_of_each_axis(size, out, align_corners):
    values = images(2, *size, 3)
    expected = interpolate(values, out[0], align_corners, axis=1)
    expected = interpolate(expected, out[1], align_corners, axis=2)
    resized = resize_bilinear(ops.convert_to_tensor(values), out, align_corners)
    np.testing.assert_allclose(ops.convert_to_numpy(resized), expected, atol=1e-5)


def test_two_pixels_to_four_by_hand():
    line = ops.convert_to_tensor(np.array([0.0, 1.0], "float32").reshape(1, 1, 2, 1))
    half_pixel = ops.convert_to_numpy(resize_bilinear(line, (1, 4)))
    aligned = ops.convert_to_numpy(resize_bilinear(line, (1, 4), align_corners=True))
    np.testing.assert_allclose(half_pixel.ravel(), [0, 0.25, 0.75, 1])
    np.testing.assert_allclose(aligned.ravel(), [0, 1 / 3, 2 / 3, 1], rtol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
def test_gradient_is_the_transposed_map(align_corners):
    values, weights = images(1, 5, 4, 2), images(1, 8, 3, 2, seed=1)
    weights = ops.convert_to_tensor(weights)
    resize = lambda x: ops.sum(resize_bilinear(x, (8, 3), align_corners) * weights)  # noqa: E731
    (gradient,) = gradients(resize, values)
    value = float(ops.convert_to_numpy(resize(ops.convert_to_tensor(values))))
    assert np.sum(gradient * values) == pytest.approx(value, rel=1e-4)


def test_size_of_the_input_stays_as_it_is():
    values = ops.convert_to_tensor(images(1, 5, 4, 2))
    assert resize_bilinear(values, (5, 4)) is values


@pytest.mark.parametrize("align_corners", [False, True])
def test_sizes_known_only_at_run_time_give_the_same_numbers(align_corners):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("shapes are always known on this backend")
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((2,), tf.int32)])
    def resize(values, size):
        return resize_bilinear(values, (size[0], size[1]), align_corners)

    for size, out in (((5, 7), (9, 3)), ((1, 1), (4, 2)), ((6, 5), (1, 1)), ((4, 4), (4, 4))):
        values = images(2, *size, 3)
        expected = resize_bilinear(ops.convert_to_tensor(values), out, align_corners)
        np.testing.assert_allclose(resize(values, out), expected, atol=2e-6)


def test_compiled_result_equals_the_eager_one():
    values = images(2, 5, 7, 3)
    resize = lambda x: resize_bilinear(x, (9, 4), align_corners=True)  # noqa: E731
    np.testing.assert_allclose(
        compiled(resize)(values), ops.convert_to_numpy(resize(ops.convert_to_tensor(values))), atol=1e-6
    )


def test_half_precision_keeps_its_dtype_and_three_digits():
    values = images(1, 6, 6, 2)
    full = ops.convert_to_numpy(resize_bilinear(ops.convert_to_tensor(values), (11, 4)))
    half = resize_bilinear(ops.convert_to_tensor(values.astype("float16")), (11, 4))
    assert keras.backend.standardize_dtype(half.dtype) == "float16"
    np.testing.assert_allclose(ops.convert_to_numpy(half).astype("float32"), full, atol=5e-3)
