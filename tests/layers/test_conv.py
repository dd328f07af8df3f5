"""Convolutions of the published networks: padding, dilation of small maps, old files."""

import keras
import numpy as np
import pytest

from wsss.layers.conv import DilatedConv2D, WideConv2D, convolve, has_dilated_gradient


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2), (7, 2)])
def test_the_window_of_every_output_is_centered(size, stride):
    image = keras.Input((9, 9, 1))
    model = keras.Model(image, convolve(image, 1, size, stride, name="conv"))
    kernel = np.zeros((size, size, 1, 1), "float32")
    kernel[size // 2, size // 2] = 1
    model.set_weights([kernel])
    x = np.arange(81, dtype="float32").reshape(1, 9, 9, 1)
    np.testing.assert_array_equal(model(x), x[:, ::stride, ::stride])


def test_the_name_of_version_0_1_0_still_loads(tmp_path):
    image = np.random.default_rng(0).normal(size=(2, 9, 40, 3)).astype("float32")
    model = keras.Sequential([keras.Input((None, None, 3)), WideConv2D(8, 1)])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.layers[0]) is WideConv2D
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(each(image)) for each in (again, model)))


def dilated_convolution(x, kernel, rate, upstream):
    """The sum over a kernel's cells, and the gradients of `sum(upstream * result)`, in NumPy."""
    height, width = x.shape[1:3]
    margin = rate * (kernel.shape[0] // 2)
    padded = np.pad(x, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    result, kernel_gradient, padded_gradient = 0, np.zeros_like(kernel), np.zeros_like(padded)
    for row, column in np.ndindex(kernel.shape[:2]):
        window = np.s_[:, row * rate : row * rate + height, column * rate : column * rate + width]
        result = result + padded[window] @ kernel[row, column]
        kernel_gradient[row, column] = np.einsum("nhwi,nhwo->io", padded[window], upstream)
        padded_gradient[window] += upstream @ kernel[row, column].T
    inside = slice(margin, -margin)
    return result, padded_gradient[:, inside, inside], kernel_gradient


@pytest.mark.backends("tensorflow", reason="dilation of small maps as they are")
@pytest.mark.parametrize("dilates_directly", [True, False])
@pytest.mark.parametrize(("size", "is_small"), [((9, 9), True), ((28, 20), True), ((33, 12), False)])
def test_a_dilated_convolution_and_its_gradients_are_the_sums_over_the_kernel(
    size, is_small, dilates_directly, monkeypatch
):
    import tensorflow as tf

    if dilates_directly and not has_dilated_gradient():
        pytest.skip("TensorFlow has no gradient of dilated convolutions on this CPU")
    monkeypatch.setattr("wsss.layers.conv.has_dilated_gradient", lambda: dilates_directly)
    direct_calls = []
    conv2d = tf.nn.conv2d
    monkeypatch.setattr(
        tf.nn, "conv2d", lambda *args, **kwargs: direct_calls.append(1) or conv2d(*args, **kwargs)
    )
    rng = np.random.default_rng(0)
    layer = DilatedConv2D(6, 3, padding="same", dilation_rate=4, use_bias=False)
    x, upstream = (rng.normal(size=(2, *size, channels)).astype(np.float32) for channels in (5, 6))
    layer.build(x.shape)
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        y = layer(variable)
        loss = tf.reduce_sum(y * upstream)
    gradients = tape.gradient(loss, [variable, layer.kernel.value])
    assert bool(direct_calls) == (is_small and dilates_directly)
    expected = dilated_convolution(x, keras.ops.convert_to_numpy(layer.kernel), 4, upstream)
    for ours, theirs in zip((y, *gradients), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
