"""A network optimized for inference gives the numbers of the network."""

import keras
import numpy as np
import pytest
from keras import layers

from wsss.backbones.applications import build_backbone
from wsss.inference import fuse_batch_norm
from wsss.inference.fuse_batch_norm import FusedConvolution, optimize_for_inference, refresh_folded_weights
from wsss.inference.tiling import channels
from wsss.models.seam import SEAM


def with_statistics(model, seed=0):
    """The model with batch normalizations that do something, as after training."""
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


def test_a_network_of_keras_keeps_its_outputs_and_loses_its_batch_normalization():
    backbone = build_backbone("MobileNetV2", weights="none", output_stride=16)
    seam = SEAM(backbone.input, backbone.feature, 3, correlation_feature=backbone.correlation_feature())
    model = with_statistics(outputs_of(seam))
    folded = optimize_for_inference(model)
    assert_equal_outputs(model, folded, images(2, 37, 50, 3))
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)
    assert not any(isinstance(layer, layers.ZeroPadding2D) for layer in folded.layers)


def test_weights_are_folded_once_and_anew_on_demand():
    image = keras.Input((None, None, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, name="convolution")(image))
    model = with_statistics(keras.Model(image, [x]))
    folded, x = optimize_for_inference(model), images(1, 8, 8, 3)
    (before,) = folded(x, training=False)
    kernel, bias = model.get_layer("convolution").get_weights()
    model.get_layer("convolution").set_weights([2 * kernel, bias + 1])
    np.testing.assert_array_equal(folded(x, training=False)[0], before)
    refresh_folded_weights(folded)
    assert_equal_outputs(model, folded, x)


def test_a_large_kernel_is_not_copied(monkeypatch):
    monkeypatch.setattr(fuse_batch_norm, "LARGEST_FOLDED", 100)
    image = keras.Input((None, None, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(layers.ZeroPadding2D(1)(image)))
    model = with_statistics(keras.Model(image, [x]))
    folded = optimize_for_inference(model)
    assert {id(x) for x in folded.weights} == {id(x) for x in model.weights}
    assert_equal_outputs(model, folded, images(1, 8, 8, 3))


def test_a_subclass_that_computes_something_else_is_left_alone():
    class Doubled(layers.Conv2D):
        def call(self, x):
            return 2 * super().call(x)

    image = keras.Input((None, None, 3))
    model = with_statistics(keras.Model(image, [layers.BatchNormalization()(Doubled(4, 3)(image))]))
    assert_equal_outputs(model, optimize_for_inference(model), images(1, 8, 8, 3))


@pytest.mark.slow
@pytest.mark.backends("tensorflow", reason="TensorFlow's graphs")
def test_the_optimized_network_compiles_with_xla_and_calls_no_host():
    import tensorflow as tf

    backbone = build_backbone("MobileNetV2", weights="none", output_stride=16)
    seam = SEAM(backbone.input, backbone.feature, 3, correlation_feature=backbone.correlation_feature())
    model = with_statistics(keras.Model(seam.network.input, [seam.refined_cam.output, seam.cam.output]))
    network = optimize_for_inference(model)
    x = images(1, 40, 52, 3)
    compiled = tf.function(lambda x: network(x, training=False), jit_compile=True, autograph=False)
    for ours, expected in zip(compiled(x), model(x, training=False), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4)
    kinds = {operation.type for operation in compiled.get_concrete_function(x).graph.get_operations()}
    assert not [kind for kind in kinds if "PyFunc" in kind]
    assert "FusedBatchNormV3" not in kinds


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(("strides", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_padding_convolution_and_normalization_become_one(depthwise, use_bias, strides, dilation):
    options = {"strides": strides, "dilation_rate": dilation, "use_bias": use_bias}
    convolution = layers.DepthwiseConv2D(3, **options) if depthwise else layers.Conv2D(5, 3, **options)
    image = keras.Input((None, None, 3))
    x = convolution(layers.ZeroPadding2D(((0, 1), (2, 1)))(image))
    if use_bias:
        convolution.bias.assign(images(*convolution.bias.shape))
    model = with_statistics(keras.Model(image, [layers.BatchNormalization()(x)]))
    folded = optimize_for_inference(model)
    assert [type(layer) for layer in folded.layers] == [layers.InputLayer, FusedConvolution]
    assert_equal_outputs(model, folded, images(2, 11, 14, 3))


def test_a_convolution_that_other_layers_read_is_not_folded():
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, padding="same")(image)
    activated = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    sums = layers.Add()([x, layers.BatchNormalization()(x), layers.BatchNormalization()(activated)])
    model = with_statistics(keras.Model(image, [sums]))
    folded = optimize_for_inference(model)
    assert not any(isinstance(layer, FusedConvolution) for layer in folded.layers)
    assert_equal_outputs(model, folded, images(1, 8, 9, 3))


def test_a_network_without_convolutions_stays_as_it_is():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, [layers.ReLU()(image)])
    assert_equal_outputs(model, optimize_for_inference(model), images(1, 4, 5, 3))


def test_many_output_channels_are_split_without_onednn(monkeypatch):
    monkeypatch.setattr(channels, "uses_eigen_conv", lambda: True)
    monkeypatch.setattr(channels, "CHANNELS_AT_ONCE", 2)
    image = keras.Input((None, None, 3))
    x = layers.BatchNormalization()(layers.Conv2D(10, 1, strides=2)(image))
    model = with_statistics(keras.Model(image, [x]))
    kernels, convolution = [], fuse_batch_norm._convolution
    monkeypatch.setattr(
        fuse_batch_norm,
        "_convolution",
        lambda layer, x, kernel, *rest: kernels.append(kernel.shape) or convolution(layer, x, kernel, *rest),
    )
    assert_equal_outputs(model, optimize_for_inference(model), images(2, 11, 14, 3))
    assert {tuple(shape) for shape in kernels} == {(1, 1, 3, 2)}
