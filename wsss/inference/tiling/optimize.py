"""A trained network as inference wants it: the same numbers from fewer and smaller tensors."""

import keras

from wsss.inference.fuse_batch_norm import fold_convolutions
from wsss.inference.graph import needed, run, steps_of
from wsss.inference.tiling.executor import stream


def lean_network(model):
    """The same function of the same weights, with fewer and smaller tensors between its convolutions.

    - Batch normalisation and zero padding are folded into the convolutions beside them.
    - Where wide maps are made of narrow ones and read by narrow ones, some rows of all are made after the
      others, so that no wide map is ever held whole.

    Args:
        model: functional `keras.Model`.

    Returns:
        `keras.Model` on the same weights, which it follows while they are trained, for inference alone; equal
        to `model` up to rounding.
    """
    steps, copy = steps_of(model)
    steps = needed(fold_convolutions(steps, copy.outputs), copy.outputs)
    values = {id(x): x for x in copy.inputs}
    run(stream(steps, copy.outputs), values)
    return keras.Model(copy.input, [values[id(x)] for x in copy.outputs])
