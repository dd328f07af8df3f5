"""A network of which some rows are made after the others gives what the whole gives."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.inference.tiling.test_optimize import assert_equal_outputs, images, with_statistics
from wsss.inference.graph import steps_of
from wsss.inference.tiling import executor as streaming
from wsss.inference.tiling.executor import RowStream
from wsss.inference.tiling.optimize import lean_network


@pytest.fixture(autouse=True)
def _few_rows_at_once(monkeypatch):
    monkeypatch.setattr(streaming, "STREAM_ELEMENTS", 256)


def streams(model):
    return [layer for layer in model.layers if isinstance(layer, RowStream)]


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
def test_windows_of_every_kind(options, shape):
    image = keras.Input((None, None, 3))
    model = with_statistics(keras.Model(image, [through_wide_maps(image, **options)]))
    lean = lean_network(model)
    assert len(streams(lean)) == 1
    assert_equal_outputs(model, lean, images(*shape))


def test_shortcuts_side_outputs_and_depthwise_convolutions():
    image = keras.Input((None, None, 3))
    x = convolve(layers.ZeroPadding2D(1)(image), 48, strides=2, padding="valid")
    side = layers.Conv2D(2, 1, activation="relu")(x)
    y = layers.DepthwiseConv2D(3, padding="same", dilation_rate=2)(convolve(x, 48))
    shortcut = layers.Add()([x, layers.BatchNormalization()(y)])
    model = with_statistics(keras.Model(image, [side, layers.Conv2D(2, 1)(shortcut)]))
    lean = lean_network(model)
    (stream,) = streams(lean)
    assert [x.shape[-1] for x in stream.whole.outputs] == [2, 2]
    assert_equal_outputs(model, lean, images(2, 33, 18, 3))


def test_a_layer_that_looks_at_the_whole_map_parts_two_streams():
    image = keras.Input((None, None, 3))
    x = through_wide_maps(image)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    model = with_statistics(keras.Model(image, [through_wide_maps(layers.Multiply()([x, gate]))]))
    lean = lean_network(model)
    assert len(streams(lean)) == 2
    assert_equal_outputs(model, lean, images(2, 21, 16, 3))


@pytest.mark.backends("tensorflow", reason="other backends run the part as a whole")
def test_a_map_of_the_whole_height_is_never_made():
    import tensorflow as tf

    image = keras.Input((None, None, 3))
    lean = lean_network(with_statistics(keras.Model(image, [through_wide_maps(image)])))
    (stream,) = streams(lean)
    heights = []
    advance = stream._advance

    def recording(inputs, held, plan):
        held = advance(inputs, held, plan)
        heights.extend(tf.shape(x)[1] for x in held[:-1])
        return held

    stream._advance = recording
    lean(images(1, 64, 16, 3), training=False)
    assert max(map(int, heights)) <= 3  # the last two rows of a window of three, and one that waits
    assert len(heights) > 64  # and in many iterations


def test_what_is_wide_outside_stays_as_it_is():
    image = keras.Input((None, None, 32))
    model = keras.Model(image, [convolve(image, 32)])
    assert not streams(lean_network(model))


@pytest.mark.backends("tensorflow", reason="graphs for images of unknown size exist under TensorFlow alone")
def test_one_graph_serves_all_sizes():
    import tensorflow as tf

    image = keras.Input((None, None, 3))
    model = with_statistics(keras.Model(image, [through_wide_maps(image)]))
    lean = lean_network(model)
    run = tf.function(
        lambda x: lean(x, training=False), [tf.TensorSpec((None, None, None, 3))], autograph=False
    )
    for shape in [(1, 9, 9, 3), (2, 30, 8, 3), (1, 1, 5, 3)]:
        expected = model(images(*shape), training=False)[0]
        np.testing.assert_allclose(run(images(*shape))[0], expected, atol=1e-5)
    assert run.experimental_get_tracing_count() == 1


def test_steps_of_a_streamed_network_are_in_order():
    image = keras.Input((None, None, 3))
    steps, _ = steps_of(lean_network(keras.Model(image, [through_wide_maps(image)])))
    assert isinstance(steps[0].layer, RowStream)
