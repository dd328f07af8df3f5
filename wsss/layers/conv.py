"""Convolutions into thousands of channels, made in parts where that is faster."""

import keras
from keras import layers, ops

from wsss.layers.cpu import multiplies_by_eigen

CHANNELS_AT_ONCE = 512  # of a convolution into four times as many or more


@keras.saving.register_keras_serializable(package="wsss")
class WideConv2D(layers.Conv2D):
    """A convolution whose channels are made in parts where that is faster, see `in_parts`.

    Takes the arguments of `keras.layers.Conv2D`, and gives its numbers.
    """

    def convolution_op(self, inputs, kernel):
        convolve = super().convolution_op
        return merge_parts([convolve(inputs, part) for part in in_parts(kernel)])


def in_parts(kernel):
    """The kernel in parts that make some channels each, or as it is.

    Eigen, with which TensorFlow convolves on CPUs without oneDNN, multiplies matrices at 0.6 to 0.8 of its
    speed where a row of the product is 8 KiB or more (its positions then share few sets of the cache, it
    seems). What oneDNN or an accelerator multiplies is made at once.

    Args:
        kernel: (height, width, channels in, channels out).

    Returns:
        List of one kernel or several, equal in shape.
    """
    channels = kernel.shape[-1]
    wide = channels >= 4 * CHANNELS_AT_ONCE and not channels % CHANNELS_AT_ONCE
    if not wide or not multiplies_by_eigen():
        return [kernel]
    return ops.split(kernel, channels // CHANNELS_AT_ONCE, axis=-1)


def merge_parts(maps):
    """The map whose channels were made in parts; (batch, height, width, channels) each."""
    return maps[0] if len(maps) == 1 else ops.concatenate(maps, axis=-1)
