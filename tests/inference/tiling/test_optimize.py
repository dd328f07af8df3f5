"""A network made ready for inference gives what it gave before."""

import keras
import numpy as np
import pytest
from keras import layers

from wsss.backbones.applications import build_backbone
from wsss.inference import fuse_batch_norm as folding
from wsss.inference.fuse_batch_norm import FoldedConvolution
from wsss.inference.tiling import channels as wide
from wsss.inference.tiling import executor as streaming
from wsss.inference.tiling.executor import RowStream
from wsss.inference.tiling.optimize import lean_network
from wsss.models.seam import SEAM
from wsss.weights.published import published_seam


def with_statistics(model, seed=0):
    """The model with batch normalisations that do something, as after training."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            shape = layer.moving_mean.shape
            gamma, variance = rng.uniform(0.5, 1.5, (2, *shape))
            beta, mean = rng.normal(0, 0.1, (2, *shape))
            layer.set_weights([*[gamma] * layer.scale, *[beta] * layer.center, mean, variance])
    return model


def images(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, "float32")


def assert_equal_outputs(model, folded, x):
    for ours, expected in zip(folded(x, training=False), model(x, training=False), strict=True):
        ours, expected = (keras.ops.convert_to_numpy(value) for value in (ours, expected))
        np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


def outputs_of(seam):
    return keras.Model(seam.network.input, [seam.network.output[name] for name in ("cam", "scores")])


def test_a_network_of_keras_keeps_its_outputs_and_loses_its_batch_normalisation():
    backbone = build_backbone("MobileNetV2", weights="none", output_stride=16)
    seam = SEAM(backbone.input, backbone.feature, 3, correlation_feature=backbone.correlation_feature())
    model = with_statistics(outputs_of(seam))
    folded = lean_network(model)
    assert_equal_outputs(model, folded, images(2, 37, 50, 3))
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)
    assert not any(isinstance(layer, layers.ZeroPadding2D) for layer in folded.layers)


def test_resnet38_keeps_its_outputs_and_holds_no_wide_map(monkeypatch):
    monkeypatch.setattr(streaming, "STREAM_ELEMENTS", 2048)
    model = with_statistics(outputs_of(published_seam(3, "linear", width=1 / 8)))
    folded = lean_network(model)
    assert_equal_outputs(model, folded, images(2, 41, 64, 3))
    assert_equal_outputs(model, folded, images(1, 9, 130, 3))
    (streamed,) = (layer for layer in folded.layers if isinstance(layer, RowStream))
    assert max(output.shape[-1] for output in streamed.whole.outputs) == 4  # of 512 inside
    assert not {"b2-add", "b7-conv_branch1", "bn7"} & {layer.name for layer in folded.layers}


def test_a_folded_network_follows_its_original():
    image = keras.Input((None, None, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, name="convolution")(image))
    model = with_statistics(keras.Model(image, [x]))
    folded = lean_network(model)
    kernel, bias = model.get_layer("convolution").get_weights()
    model.get_layer("convolution").set_weights([2 * kernel, bias + 1])
    assert_equal_outputs(model, folded, images(1, 8, 8, 3))


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(("strides", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_padding_convolution_and_normalisation_become_one(depthwise, use_bias, strides, dilation):
    options = {"strides": strides, "dilation_rate": dilation, "use_bias": use_bias}
    convolution = layers.DepthwiseConv2D(3, **options) if depthwise else layers.Conv2D(5, 3, **options)
    image = keras.Input((None, None, 3))
    x = convolution(layers.ZeroPadding2D(((0, 1), (2, 1)))(image))
    if use_bias:
        convolution.bias.assign(images(*convolution.bias.shape))
    model = with_statistics(keras.Model(image, [layers.BatchNormalization()(x)]))
    folded = lean_network(model)
    assert [type(layer) for layer in folded.layers] == [layers.InputLayer, FoldedConvolution]
    assert_equal_outputs(model, folded, images(2, 11, 14, 3))


def test_what_others_read_too_is_not_folded():
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, padding="same")(image)
    activated = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    sums = layers.Add()([x, layers.BatchNormalization()(x), layers.BatchNormalization()(activated)])
    model = with_statistics(keras.Model(image, [sums]))
    folded = lean_network(model)
    assert not any(isinstance(layer, FoldedConvolution) for layer in folded.layers)
    assert_equal_outputs(model, folded, images(1, 8, 9, 3))


def test_a_network_without_convolutions_stays_as_it_is():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, [layers.ReLU()(image)])
    assert_equal_outputs(model, lean_network(model), images(1, 4, 5, 3))


def test_many_channels_are_made_in_parts_without_onednn(monkeypatch):
    monkeypatch.setattr(wide, "multiplies_by_eigen", lambda: True)
    monkeypatch.setattr(wide, "CHANNELS_AT_ONCE", 2)
    image = keras.Input((None, None, 3))
    x = layers.BatchNormalization()(layers.Conv2D(10, 1, strides=2)(image))
    model = with_statistics(keras.Model(image, [x]))
    made, convolve = [], keras.ops.conv
    monkeypatch.setattr(
        folding.ops, "conv", lambda x, kernel, *rest: made.append(kernel.shape) or convolve(x, kernel, *rest)
    )
    assert_equal_outputs(model, lean_network(model), images(2, 11, 14, 3))
    assert [tuple(shape) for shape in made] == [(1, 1, 3, 2)] * 5
