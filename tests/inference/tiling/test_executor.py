"""Tiled execution gives the numbers of the whole network."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.inference.test_fuse_batch_norm import assert_equal_outputs, images, outputs_of, with_statistics
from wsss.inference.fuse_batch_norm import optimize_for_inference
from wsss.inference.graph import steps_of
from wsss.inference.tiling import executor
from wsss.inference.tiling.executor import TiledExecutor
from wsss.inference.tiling.tile import activation_bytes_per_pixel, tile_network
from wsss.weights.published import published_seam

pytestmark = pytest.mark.backends("tensorflow", reason="tiled execution")


@pytest.fixture(autouse=True)
def _few_rows_a_strip(monkeypatch):
    monkeypatch.setattr(executor, "STRIP_ELEMENTS", 256)


def executors(model):
    return [layer for layer in model.layers if isinstance(layer, TiledExecutor)]


def tiled(model):
    return tile_network(optimize_for_inference(model))


def convolve(x, channels, size=3, **options):
    x = layers.Conv2D(channels, size, padding=options.pop("padding", "same"), **options)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def through_wide_maps(image, **options):
    x = convolve(image, 64, **options)
    return layers.Conv2D(3, 1)(convolve(x, 96))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": (5, 2)},
        {"size": 4, "padding": "valid"},
        {"dilation_rate": 3},
        {"strides": 2, "padding": "valid"},
        {"size": 1, "strides": 2},
    ],
)
@pytest.mark.parametrize("shape", [(1, 37, 20, 3), (3, 16, 31, 3), (2, 7, 7, 3)])
def test_receptive_fields_of_every_kind(options, shape):
    image = keras.Input((None, None, 3))
    model = with_statistics(keras.Model(image, [through_wide_maps(image, **options)]))
    network = tiled(model)
    assert len(executors(network)) == 1
    assert_equal_outputs(model, network, images(*shape))


def test_shortcuts_side_outputs_and_depthwise_convolutions():
    image = keras.Input((None, None, 3))
    x = convolve(layers.ZeroPadding2D(1)(image), 48, strides=2, padding="valid")
    side = layers.Conv2D(2, 1, activation="relu")(x)
    y = layers.DepthwiseConv2D(3, padding="same", dilation_rate=2)(convolve(x, 48))
    shortcut = layers.Add()([x, layers.BatchNormalization()(y)])
    model = with_statistics(keras.Model(image, [side, layers.Conv2D(2, 1)(shortcut)]))
    network = tiled(model)
    (inside,) = executors(network)
    assert [x.shape[-1] for x in inside.whole.outputs] == [2, 2]
    assert_equal_outputs(model, network, images(2, 33, 18, 3))


def test_a_layer_that_reads_the_whole_map_lies_between_two_executors():
    image = keras.Input((None, None, 3))
    x = through_wide_maps(image)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    model = with_statistics(keras.Model(image, [through_wide_maps(layers.Multiply()([x, gate]))]))
    network = tiled(model)
    assert len(executors(network)) == 2
    assert_equal_outputs(model, network, images(2, 21, 16, 3))


def test_no_map_is_held_with_its_whole_height():
    import tensorflow as tf

    image = keras.Input((None, None, 3))
    network = tiled(with_statistics(keras.Model(image, [through_wide_maps(image)])))
    (inside,) = executors(network)
    heights = []
    advance = inside._advance

    def recording(inputs, held, schedule):
        held = advance(inputs, held, schedule)
        heights.extend(tf.shape(x)[1] for x in held[:-1])
        return held

    inside._advance = recording
    network(images(1, 64, 16, 3), training=False)
    assert max(map(int, heights)) <= 3  # the last two rows of a window of three, and one that waits
    assert len(heights) > 64  # and in many iterations


def test_a_network_whose_inputs_are_as_wide_as_its_maps_is_not_tiled():
    image = keras.Input((None, None, 32))
    assert tiled(keras.Model(image, [convolve(image, 32)])) is None


@pytest.mark.slow
def test_resnet38_keeps_its_outputs_and_holds_no_wide_map(monkeypatch):
    monkeypatch.setattr(executor, "STRIP_ELEMENTS", 2048)
    model = with_statistics(outputs_of(published_seam(3, "linear", width=1 / 8)))
    network = tiled(model)
    assert_equal_outputs(model, network, images(2, 41, 64, 3))
    assert_equal_outputs(model, network, images(1, 9, 130, 3))
    (inside,) = executors(network)
    assert max(output.shape[-1] for output in inside.whole.outputs) == 4  # of 512 inside
    assert not {"b2-add", "b7-conv_branch1", "bn7"} & {layer.name for layer in network.layers}


def test_activation_memory_counts_the_maps_alive_at_once():
    image = keras.Input((None, None, 3))
    x = layers.ReLU()(layers.Conv2D(8, 1, strides=2)(image))  # 3 + 8/4, then 8/4 + 8/4 values a pixel
    model = keras.Model(image, [layers.GlobalAveragePooling2D()(x)])
    assert activation_bytes_per_pixel(model) == pytest.approx(4 * (3 + 8 / 4))
    both = keras.Model(image, [layers.Concatenate()([image, layers.ReLU()(image)])])
    assert activation_bytes_per_pixel(both) == 4 * (3 + 3 + 6)


def test_one_graph_serves_all_sizes():
    import tensorflow as tf

    image = keras.Input((None, None, 3))
    model = with_statistics(keras.Model(image, [through_wide_maps(image)]))
    network = tiled(model)
    run = tf.function(
        lambda x: network(x, training=False), [tf.TensorSpec((None, None, None, 3))], autograph=False
    )
    for shape in [(1, 9, 9, 3), (2, 30, 8, 3), (1, 1, 5, 3)]:
        expected = model(images(*shape), training=False)[0]
        np.testing.assert_allclose(run(images(*shape))[0], expected, atol=1e-5)
    assert run.experimental_get_tracing_count() == 1


def test_steps_of_a_tiled_network_are_in_order():
    image = keras.Input((None, None, 3))
    steps, _ = steps_of(tiled(keras.Model(image, [through_wide_maps(image)])))
    assert isinstance(steps[0].layer, TiledExecutor)
