"""A trained network as inference wants it: the same numbers from fewer and smaller tensors."""

import keras
from keras import layers

from wsss.models.folding import fold_convolutions
from wsss.models.graph import Step, needed, readers_of, replace_inputs, run, steps_of
from wsss.models.strips import is_positionwise, run_tail_in_strips

NARROWING = 8  # times fewer channels


def lean_network(model):
    """The same function of the same weights, with fewer and smaller tensors between its convolutions.

    - Batch normalisation and zero padding are folded into the convolutions beside them.
    - The layers before the widest 1 x 1 convolution that look at one position only are run on some positions
      after the others.
    - A map is not held until the end for the sake of a convolution that makes few channels of it.

    Args:
        model: functional `keras.Model`.

    Returns:
        `keras.Model` on the same weights, which it follows while they are trained, for inference alone; equal
        to `model` up to rounding.
    """
    steps, copy = steps_of(model)
    steps = run_tail_in_strips(fold_convolutions(steps, copy.outputs), copy.outputs)
    values = {id(x): x for x in copy.inputs}
    run(read_narrow_first(needed(steps, copy.outputs), copy.outputs), values)
    return keras.Model(copy.input, [values[id(x)] for x in copy.outputs])


class After(layers.Layer):
    """The first of some tensors, once the others have been computed."""

    def call(self, inputs):
        x, *others = inputs
        if keras.backend.backend() != "tensorflow":
            return x
        import tensorflow as tf

        with tf.control_dependencies(others):
            return tf.identity(x)

    def compute_output_shape(self, input_shapes):
        return input_shapes[0]


def read_narrow_first(steps, outputs):
    """The steps, where a map is read first by the 1 x 1 convolutions that make few channels of many.

    With one thread for operations TensorFlow would else leave them to the end, and hold the map until then.
    """
    readers = readers_of(steps, outputs)
    ordered, moved, delayed = [], set(), {}
    for step in steps:
        if id(step) in moved:
            continue
        ordered.append(replace_inputs(step, delayed))
        key = id(step.output)
        narrow = [reader for reader in readers[key] if reader and _is_narrowing(reader)]
        if narrow and len(narrow) < len(readers[key]):
            moved.update(map(id, narrow))
            tensors = [step.output, *[reader.output for reader in narrow]]
            after = After(dtype=step.layer.dtype_policy)
            delayed[key] = after(tensors)
            ordered += [*narrow, Step(after, (tensors,), {}, delayed[key])]
    return ordered


def _is_narrowing(step):
    layer = step.layer
    one_by_one = isinstance(layer, layers.Conv2D) and is_positionwise(step)
    return one_by_one and NARROWING * layer.filters <= step.inputs[0].shape[-1]
