"""Convolutions with thousands of output channels, in groups of channels where Eigen is faster so."""

import functools
from typing import Any

import keras
from keras import ops

from wsss.layers.conv import has_dilated_gradient

CHANNELS_AT_ONCE = 512  # of a convolution with four times as many output channels or more


@functools.cache
def uses_eigen_conv() -> bool:
    """Whether TensorFlow convolves with Eigen: on CPUs alone, without oneDNN."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    only_cpus = all(device.device_type == "CPU" for device in tf.config.list_logical_devices())
    return only_cpus and not has_dilated_gradient()  # which of the two oneDNN alone has


def is_split(channels: int) -> bool:
    """Whether a kernel with so many output channels is split."""
    wide = channels >= 4 * CHANNELS_AT_ONCE and not channels % CHANNELS_AT_ONCE
    return wide and uses_eigen_conv()


def split_output_channels(kernel: Any) -> list:
    """A kernel as several with some of the output channels each, where the convolution is faster so.

    Eigen, with which TensorFlow convolves on CPUs without oneDNN, multiplies matrices at 0.6 to 0.8 of its
    speed where a row of the product has 8 KiB or more (probably since its positions share few sets of the
    cache then). Under oneDNN and on accelerators a kernel is never split.

    Args:
        kernel: (height, width, input channels, output channels).

    Returns:
        One kernel, or several of one shape.
    """
    channels = kernel.shape[-1]
    return ops.split(kernel, channels // CHANNELS_AT_ONCE, axis=-1) if is_split(channels) else [kernel]


def concat_channels(maps: list) -> Any:
    """The maps (batch, height, width, channels) as one, channels in order."""
    return maps[0] if len(maps) == 1 else ops.concatenate(maps, axis=-1)
