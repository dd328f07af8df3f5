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


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow has two ways")
@pytest.mark.parametrize("size", [(9, 9), (28, 20), (33, 12)])
def test_small_maps_are_dilated_directly_with_the_same_numbers(size, monkeypatch):
    import tensorflow as tf

    layer = DilatedConv2D(6, 3, padding="same", dilation_rate=4, use_bias=False)
    x = tf.constant(np.random.default_rng(0).normal(size=(2, *size, 5)).astype(np.float32))
    layer.build(x.shape)
    direct = []

    def value_and_gradients():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(tf.square(y))
        return y, *tape.gradient(loss, [x, layer.kernel.value])

    convolve = tf.nn.conv2d
    monkeypatch.setattr(
        tf.nn, "conv2d", lambda *args, **kwargs: direct.append(1) or convolve(*args, **kwargs)
    )
    ours = value_and_gradients()
    monkeypatch.setattr("wsss.layers.conv.LARGEST_DIRECT", 0)
    assert bool(direct) == (max(size) <= 32 and has_dilated_gradient())
    for one, other in zip(ours, value_and_gradients(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
