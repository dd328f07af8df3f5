"""A network run on some rows of its maps after the others, so that no wide map is ever held whole."""

import functools
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from wsss.inference.fuse_batch_norm import FoldedConvolution, is_plain_convolution
from wsss.inference.graph import Step, in_order, readers_of, submodel
from wsss.inference.tiling.channels import multiplies_by_eigen
from wsss.inference.tiling.receptive_field import ONE_TO_ONE, Reading, RowOrder, windows_of_convolution
from wsss.layers.heads import StopGradient
from wsss.layers.resize import ResizeLike

STREAM_ELEMENTS = 1 << 21  # of a map that are made at once: 8 MiB


class Part(NamedTuple):
    """Steps of a network, the tensors that they read of others, and those that others read of them."""

    steps: list
    inputs: list
    outputs: list


class RowStream(layers.Layer):
    """Runs a part of a network on some rows of each map after the others.

    It is the part as it stands, in another order: each iteration makes those rows of every map that can be
    made of what is there, and holds what a later iteration will look at. Nothing is computed twice, and rows
    of zeros lie only where they do in the whole. Where no map exceeds `STREAM_ELEMENTS` it is one iteration.

    Under other backends than TensorFlow the part runs as a whole.

    Args:
        part: `Part`; all its steps have windows, and its tensors are maps (batch, height, width, channels).
    """

    def __init__(self, part, **kwargs):
        super().__init__(trainable=False, autocast=False, **kwargs)
        self.whole = submodel(part.steps, part.inputs, part.outputs)
        maps = [*part.inputs, *(step.output for step in part.steps)]
        number_of = {id(x): number for number, x in enumerate(maps)}
        windows = [windows_of(step) for step in part.steps]
        readings = [
            Reading(tuple(number_of[id(x)] for x in step.inputs), rows, columns)
            for step, (rows, columns) in zip(part.steps, windows)
        ]
        self.order = RowOrder(
            readings,
            len(part.inputs),
            [number_of[id(x)] for x in part.outputs],
            idle_rows=0 if multiplies_by_eigen() else 1,  # oneDNN's empty maps have a wrong shape
        )
        self._channels, self._dtypes = zip(*((x.shape[-1], x.dtype) for x in maps))
        runners = [_on_given_rows(step.layer, *each) for step, each in zip(part.steps, windows)]
        self._runners = lambda: runners  # Keras would wrap a list of layers, and save them
        self.built = True

    def call(self, inputs):
        inputs = keras.tree.flatten(inputs)
        if keras.backend.backend() != "tensorflow":
            return keras.tree.flatten(self.whole(inputs, training=False))
        import tensorflow as tf

        kept = self.order.kept
        sizes = tf.stack([tf.shape(x)[:3] for x in inputs])
        *plan, widths = tf.numpy_function(self._plan, [sizes], [tf.int32] * 6)
        iterations = tf.shape(plan[0])[0]
        widths.set_shape(len(kept))
        held = [
            tf.zeros((sizes[0, 0], 0, width, self._channels[number]), self._dtypes[number])
            for number, width in zip(kept, tf.unstack(widths))
        ]
        shapes = [tf.TensorShape((None, None, None, x.shape[-1])) for x in held]
        _, held = tf.while_loop(
            lambda index, _: index < iterations,
            lambda index, held: (index + 1, self._advance(inputs, held, [part[index] for part in plan])),
            (tf.constant(0), held),
            shape_invariants=(tf.TensorShape(()), shapes),
            parallel_iterations=1,
        )
        return [held[kept.index(number)] for number in self.order.outputs]

    def _plan(self, sizes):
        """What `RowPlan` says, as arguments of slicing and padding; and the widths of the kept maps."""
        batch = int(sizes[0, 0])
        sizes = self.order.sizes([(int(height), int(width)) for _, height, width in sizes])
        widest = max(height * width * channels for (height, width), channels in zip(sizes, self._channels))
        times = batch * widest // STREAM_ELEMENTS + 1
        plan = _cached_plan(self.order, tuple(height for height, _ in sizes), times)
        first, count = plan.strips[..., 0], plan.strips[..., 1]
        widths = [sizes[number][1] for number in self.order.kept]
        return (
            _along_rows(first, 0),
            _along_rows(count, -1),
            _along_rows(plan.zeros, 0),
            _along_rows(plan.made, -1),
            _along_rows(plan.forgotten, 0),
            np.asarray(widths, "int32"),
        )

    def _advance(self, inputs, held, plan):
        """One iteration: the rows that are held after it, for those before it."""
        import tensorflow as tf

        order, strips = self.order, len(self.order.strips_of)
        firsts, counts, zeros = (tf.unstack(x, strips) for x in plan[:3])
        made, forgotten = (dict(zip(order.kept, tf.unstack(x, len(order.kept)))) for x in plan[3:])
        held = dict(zip(order.kept, held))
        stores, rows = dict(enumerate(inputs)), {}  # what is there of each map, and what is new of it
        indices = iter(range(strips))
        for layer, (reading, run) in enumerate(zip(order.readings, self._runners())):
            args = []
            for number in reading.maps:
                if order.abreast(layer, number):
                    args.append(rows[number])
                    continue
                index = next(indices)
                strip = tf.slice(stores[number], firsts[index], counts[index])
                args.append(self._shaped(number, tf.pad(strip, zeros[index])))
            number = order.given + layer
            rows[number] = run(args if len(args) > 1 else args[0])
            if number in held:
                new = tf.slice(rows[number], [0] * 4, made[number])
                stores[number] = tf.concat([held[number], new], axis=1)
        return [
            self._shaped(number, tf.slice(stores[number], forgotten[number], [-1] * 4))
            for number in order.kept
        ]

    def _shaped(self, number, x):
        """The map, of whose shape TensorFlow has lost sight, with its channels."""
        x.set_shape((None, None, None, self._channels[number]))
        return x

    def compute_output_spec(self, inputs):
        return keras.tree.flatten(self.whole.compute_output_spec(keras.tree.flatten(inputs)))


@functools.lru_cache(maxsize=64)
def _cached_plan(order, heights, times):
    return order.plan(heights, times)


def _along_rows(values, other):
    """Values of the axis of rows as those of all four axes of a map; `other` stands for the other axes."""
    axes = np.full((*values.shape[:2], 4, *values.shape[2:]), other, "int32")
    axes[:, :, 1] = values
    return axes


def _on_given_rows(layer, rows, columns):
    """The function of a strip of rows, zeros included, that gives what the layer makes of them."""
    folded = isinstance(layer, FoldedConvolution)
    if not folded and not is_plain_convolution(layer):
        return functools.partial(layer, training=False)
    convolution, normalization = (layer.convolution, layer.normalization) if folded else (layer, None)
    zeros = (0, 0), (columns.before, columns.after)
    return FoldedConvolution(convolution, normalization, zeros, name=f"{layer.name}_rows")


def stream(steps, outputs):
    """The steps, with `RowStream`s where wide maps are made of narrow ones and read by narrow ones.

    Args:
        steps: those of a functional model that are needed for `outputs`, in order.
        outputs: of the model.
    """
    steps = _read_sizes_elsewhere(steps)
    for part in _parts(steps, outputs):
        if not _widens(part):
            continue
        inside = {id(step) for step in part.steps}
        layer = RowStream(part, name=f"{part.steps[-1].layer.name}_stream")
        steps = [step for step in steps if id(step) not in inside]
        steps.append(Step(layer, (part.inputs,), {}, part.outputs))
    return in_order(steps)


def windows_of(step):
    """The `Window`s of a layer along rows and columns, or None where none are known.

    Args:
        step: `wsss.inference.graph.Step`.
    """
    layer, zero_padding = step.layer, None
    if any(len(x.shape) != 4 for x in step.inputs):
        return None
    if isinstance(layer, FoldedConvolution):
        layer, zero_padding = layer.convolution, layer.zero_padding
    if is_plain_convolution(layer):
        return windows_of_convolution(layer, zero_padding)
    if isinstance(layer, layers.Conv2D):  # with an activation, or groups
        alike = layer.kernel_size == layer.strides == (1, 1) and layer.data_format == "channels_last"
    elif isinstance(layer, layers.Add):
        alike = len({x.shape for x in step.inputs}) == 1
    elif isinstance(layer, layers.BatchNormalization):
        alike = layer.axis in (-1, 3)
    else:
        alike = isinstance(layer, (layers.Activation, layers.ReLU, layers.SpatialDropout2D, StopGradient))
    return (ONE_TO_ONE, ONE_TO_ONE) if alike else None


def _parts(steps, outputs):
    """The steps that have windows, in parts as large as can be without a step between that has none."""
    readers, level, parts = readers_of(steps, outputs), {}, {}
    for step in steps:
        number = max((level.get(id(x), 0) for x in step.inputs), default=0)
        if windows_of(step):
            parts.setdefault(number, []).append(step)
        after = number if windows_of(step) else number + 1
        level.update((id(x), after) for x in keras.tree.flatten(step.output))
    for part in parts.values():
        inside, made = {id(step) for step in part}, {id(step.output) for step in part}
        inputs = {id(x): x for step in part for x in step.inputs if id(x) not in made}
        read = [
            step.output
            for step in part
            if any(id(reader) not in inside for reader in readers[id(step.output)])
        ]
        yield Part(part, list(inputs.values()), read)


def _widens(part):
    """Whether some map inside of the part is twice as large as all together that come in and go out."""
    cells = {id(x): 1 for x in part.inputs}  # of the first input, for each of the map
    for step in part.steps:
        rows, columns = windows_of(step)
        cells[id(step.output)] = max(cells[id(x)] for x in step.inputs) * rows.stride * columns.stride
    elements = {
        id(x): x.shape[-1] / cells[id(x)] for x in [*part.inputs, *(step.output for step in part.steps)]
    }
    outside = sum(elements[id(x)] for x in [*part.inputs, *part.outputs])
    return max(elements.values()) > 2 * outside


def _read_sizes_elsewhere(steps):
    """The steps, where those that read the size of a wide map read it of a narrow one."""
    return [
        step._replace(args=([step.inputs[0], _narrowest(step.inputs[1], steps)],), kwargs={})
        if isinstance(step.layer, ResizeLike)
        else step
        for step in steps
    ]


def _narrowest(x, steps):
    """The map of the fewest channels among `x` and those of its size that are made of it alone."""
    same = {id(x): x}
    for step in steps:
        windows = windows_of(step) or ()
        if (
            len(step.inputs) == 1
            and id(step.inputs[0]) in same
            and windows
            and all(w.keeps_size for w in windows)
        ):
            same[id(step.output)] = step.output
    return min(same.values(), key=lambda x: x.shape[-1])
