"""Convolutions into thousands of channels, computed in groups of channels where that is faster."""

import functools

import keras
from keras import ops

from wsss.layers.conv import has_dilated_gradient

CHANNELS_AT_ONCE = 512  # of a convolution into four times as many or more


@functools.cache
def multiplies_by_eigen():
    """Whether TensorFlow computes on the CPU and without oneDNN, which alone dilates a gradient there."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    only_cpus = all(device.device_type == "CPU" for device in tf.config.list_logical_devices())
    return only_cpus and not has_dilated_gradient()


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
