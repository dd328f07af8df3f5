"""A convolution whose channels are made in parts is the convolution."""

import keras
import numpy as np
import pytest

from wsss.backbones.resnet38 import DilatedConv2D
from wsss.layers import conv as wide
from wsss.layers.conv import WideConv2D


@pytest.fixture(autouse=True)
def _two_channels_at_once(monkeypatch):
    monkeypatch.setattr(wide, "multiplies_by_eigen", lambda: True)
    monkeypatch.setattr(wide, "CHANNELS_AT_ONCE", 2)


def image():
    return np.random.default_rng(0).normal(size=(2, 9, 40, 3)).astype("float32")


@pytest.mark.parametrize("layer", [WideConv2D, DilatedConv2D])
@pytest.mark.parametrize("options", [{"padding": "same", "dilation_rate": 2}, {"use_bias": False}])
def test_parts_give_the_numbers_of_the_whole(layer, options):
    ours, plain = layer(8, 3, **options), keras.layers.Conv2D(8, 3, **options)
    ours(image()), plain(image())
    ours.set_weights(plain.get_weights())
    actual, expected = (keras.ops.convert_to_numpy(each(image())) for each in (ours, plain))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(("channels", "parts"), [(10, 5), (8, 4), (6, 1), (9, 1)])
def test_many_channels_are_split_and_few_or_uneven_ones_are_not(channels, parts):
    kernels = wide.in_parts(keras.ops.ones((3, 3, 4, channels)))
    assert [tuple(kernel.shape) for kernel in kernels] == [(3, 3, 4, channels // parts)] * parts


def test_a_kernel_is_whole_where_onednn_or_an_accelerator_multiplies(monkeypatch):
    monkeypatch.setattr(wide, "multiplies_by_eigen", lambda: False)
    kernel = keras.ops.ones((1, 1, 4, 10))
    assert wide.in_parts(kernel)[0] is kernel


@pytest.mark.backends("tensorflow", reason="gradient tapes")
def test_gradients_of_parts_are_those_of_the_whole():
    import tensorflow as tf

    ours, plain = (layer(8, 1) for layer in (WideConv2D, keras.layers.Conv2D))
    ours(image()), plain(image())
    ours.set_weights(plain.get_weights())
    gradients = []
    for layer in (ours, plain):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(layer(image())))
        gradients.append(tape.gradient(loss, [layer.kernel.value, layer.bias.value]))
    for actual, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_a_saved_layer_comes_back(tmp_path):
    model = keras.Sequential([keras.Input((None, None, 3)), WideConv2D(8, 1)])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.layers[0]) is WideConv2D
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(each(image())) for each in (again, model)))
