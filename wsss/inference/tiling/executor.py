"""Tiled execution: part of a network computed in strips of rows, with bounded activation memory."""

import functools
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from wsss.inference.fuse_batch_norm import FusedConvolution, convolve, is_plain_convolution
from wsss.inference.graph import Step, rebuild
from wsss.inference.tiling.channels import uses_eigen_conv
from wsss.inference.tiling.receptive_field import (
    POINTWISE,
    LayerInputs,
    ReceptiveField,
    StripScheduler,
    convolution_receptive_fields,
)
from wsss.layers.heads import StopGradient

STRIP_ELEMENTS = 1 << 21  # of the largest strip of a map: 8 MiB


class Subgraph(NamedTuple):
    """Steps of a network, the tensors that they read of others, and those that others read of them."""

    steps: list
    inputs: list
    outputs: list


class TiledExecutor(layers.Layer):
    """Runs part of a network strip by strip under TensorFlow on a CPU.

    It computes what the part computes, in another order: each iteration computes those rows of every map
    that the rows at hand allow, and holds what later iterations read. Nothing is computed twice, and zeros
    lie only where they do in the whole. Where no map exceeds `STRIP_ELEMENTS` it is one iteration. The
    schedule is computed on the host, so that XLA cannot compile this layer.

    Args:
        part: `Subgraph`; all its steps have receptive fields, and its tensors are maps (batch, height, width,
            channels).
    """

    def __init__(self, part: Subgraph, **kwargs):
        super().__init__(trainable=False, autocast=False, **kwargs)
        self.whole = rebuild(part.steps, part.inputs, part.outputs)
        maps = [*part.inputs, *(step.output for step in part.steps)]
        number_of = {id(x): number for number, x in enumerate(maps)}
        fields: list[Any] = [receptive_fields_of(step) for step in part.steps]
        layer_inputs = [
            LayerInputs(tuple(number_of[id(x)] for x in step.inputs), rows, columns)
            for step, (rows, columns) in zip(part.steps, fields)
        ]
        self.scheduler = StripScheduler(
            layer_inputs,
            len(part.inputs),
            [number_of[id(x)] for x in part.outputs],
            idle_rows=0 if uses_eigen_conv() else 1,  # oneDNN's empty maps have a wrong shape
        )
        self._channels, self._dtypes = zip(*((x.shape[-1], x.dtype) for x in maps))
        runners = [_on_strip(step.layer, columns) for step, (_, columns) in zip(part.steps, fields)]
        self._runners = lambda: runners  # Keras would wrap a list of layers, and save them
        self.built = True

    def call(self, inputs):
        import tensorflow as tf

        inputs, held_maps = keras.tree.flatten(inputs), self.scheduler.held
        sizes = tf.stack([tf.shape(x)[:3] for x in inputs])
        *schedule, widths = tf.numpy_function(self._schedule, [sizes], [tf.int32] * 6)
        iterations = tf.shape(schedule[0])[0]
        widths.set_shape(len(held_maps))
        held = [
            tf.zeros((sizes[0, 0], 0, width, self._channels[number]), self._dtypes[number])
            for number, width in zip(held_maps, tf.unstack(widths))
        ]
        shapes = [tf.TensorShape((None, None, None, x.shape[-1])) for x in held]
        _, held = tf.while_loop(
            lambda index, _: index < iterations,
            lambda index, held: (index + 1, self._advance(inputs, held, [part[index] for part in schedule])),
            (tf.constant(0), held),
            shape_invariants=(tf.TensorShape(()), shapes),
            parallel_iterations=1,
        )
        return [held[held_maps.index(number)] for number in self.scheduler.outputs]

    def _schedule(self, sizes):
        """`StripSchedule` as arguments of slicing and padding; and the widths of the held maps."""
        batch = int(sizes[0, 0])
        sizes = self.scheduler.sizes([(int(height), int(width)) for _, height, width in sizes])
        largest = max(height * width * channels for (height, width), channels in zip(sizes, self._channels))
        strips = batch * largest // STRIP_ELEMENTS + 1
        schedule = _cached_schedule(self.scheduler, tuple(height for height, _ in sizes), strips)
        first, count = schedule.strips[..., 0], schedule.strips[..., 1]
        widths = [sizes[number][1] for number in self.scheduler.held]
        return (
            _along_rows(first, 0),
            _along_rows(count, -1),
            _along_rows(schedule.zeros, 0),
            _along_rows(schedule.computed, -1),
            _along_rows(schedule.evicted, 0),
            np.asarray(widths, "int32"),
        )

    def _advance(self, inputs, held, schedule):
        """One iteration: the rows that are held after it, from those before it."""
        import tensorflow as tf

        scheduler, strips = self.scheduler, len(self.scheduler.strips_of)
        firsts, counts, zeros = (tf.unstack(x, strips) for x in schedule[:3])
        computed, evicted = (
            dict(zip(scheduler.held, tf.unstack(x, len(scheduler.held)))) for x in schedule[3:]
        )
        held = dict(zip(scheduler.held, held))
        stores = dict(enumerate(inputs))  # the rows at hand of each map
        rows: dict[int, Any] = {}  # the new ones
        indices = iter(range(strips))
        for layer, (reads, run) in enumerate(zip(scheduler.layer_inputs, self._runners())):
            args = []
            for number in reads.maps:
                if scheduler.is_synchronized(layer, number):
                    args.append(rows[number])
                    continue
                index = next(indices)
                strip = tf.slice(stores[number], firsts[index], counts[index])
                args.append(self._shaped(number, tf.pad(strip, zeros[index])))
            number = scheduler.inputs + layer
            rows[number] = run(args if len(args) > 1 else args[0])
            if number in held:
                new = tf.slice(rows[number], [0] * 4, computed[number])
                stores[number] = tf.concat([held[number], new], axis=1)
        return [
            self._shaped(number, tf.slice(stores[number], evicted[number], [-1] * 4))
            for number in scheduler.held
        ]

    def _shaped(self, number, x):
        """The map with its channels, of which TensorFlow has lost the static shape."""
        x.set_shape((None, None, None, self._channels[number]))
        return x

    def compute_output_spec(self, inputs):
        inputs = keras.tree.flatten(inputs)
        whole = self.whole.compute_output_spec(inputs if len(inputs) > 1 else inputs[0])
        return keras.tree.flatten(whole)


def receptive_fields_of(step: Step) -> tuple[ReceptiveField, ...] | None:
    """The receptive fields of a layer along rows and columns, or None for layers that read the whole map.

    Args:
        step: `wsss.inference.graph.Step`.
    """
    layer = step.layer
    if any(len(x.shape) != 4 for x in step.inputs):
        return None
    if isinstance(layer, FusedConvolution):
        return convolution_receptive_fields(layer, layer.zero_padding)
    if is_plain_convolution(layer):
        return convolution_receptive_fields(layer)
    if isinstance(layer, layers.Conv2D):  # with an activation, or groups
        pointwise = layer.kernel_size == layer.strides == (1, 1) and layer.data_format == "channels_last"
    elif isinstance(layer, layers.Add):
        pointwise = len({x.shape for x in step.inputs}) == 1
    elif isinstance(layer, layers.BatchNormalization):
        pointwise = layer.axis in (-1, 3)
    else:
        pointwise = isinstance(layer, (layers.Activation, layers.ReLU, layers.SpatialDropout2D, StopGradient))
    return (POINTWISE, POINTWISE) if pointwise else None


@functools.lru_cache(maxsize=64)
def _cached_schedule(scheduler, heights, strips):
    return scheduler.schedule(heights, strips)


def _along_rows(values, other):
    """Values for the axis of rows as values for all four axes of a map; `other` stands for the other axes."""
    axes = np.full((*values.shape[:2], 4, *values.shape[2:]), other, "int32")
    axes[:, :, 1] = values
    return axes


def _on_strip(layer, columns):
    """The function from a strip of rows, zeros included, to the rows that the layer computes from it."""
    if not isinstance(layer, FusedConvolution) and not is_plain_convolution(layer):
        return functools.partial(layer, training=False)
    zeros = (0, 0), (columns.before, columns.after)
    return functools.partial(convolve, layer, zero_padding=zeros, split_all=False)
