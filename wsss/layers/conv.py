"""Convolutions of the published networks: symmetric padding, and dilation of small maps."""

import functools
from typing import Any

import keras
from keras import layers

LARGEST_DIRECT = 32  # cells, height and width; beyond it `DilatedConv2D` gains nothing


def convolve(x: Any, channels: int, size: int, stride: int = 1, dilation: int = 1, *, name: str) -> Any:
    """Convolution padded alike on both sides, also where the stride would make Keras pad one side only."""
    padding = "same"
    if stride > 1 and size > 1:
        x = layers.ZeroPadding2D(size // 2, name=f"{name}-pad")(x)
        padding = "valid"
    return layers.Conv2D(channels, size, stride, padding, dilation_rate=dilation, use_bias=False, name=name)(
        x
    )


@keras.saving.register_keras_serializable(package="wsss")
class DilatedConv2D(layers.Conv2D):
    """A convolution (stride 1, padding "same") that dilates small maps as they are.

    Under TensorFlow Keras cuts a map into dilation x dilation coarser ones, and pads and convolves these. Of
    maps of 9 x 9 to 28 x 28, as in training at a crop of 224, much is padding then: forward and backward
    pass take 1.1 to 3.5 times as long. The numbers are the same. TensorFlow has the gradient of the direct
    way in oneDNN (by itself on some CPUs only), on accelerators and in XLA; elsewhere Keras's way is taken.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        if not _dilates_directly(inputs):
            return super().convolution_op(inputs, kernel)
        import tensorflow as tf

        return tf.nn.conv2d(inputs, kernel, 1, "SAME", dilations=self.dilation_rate)


@keras.saving.register_keras_serializable(package="wsss")
class WideConv2D(layers.Conv2D):
    """`keras.layers.Conv2D` under the name that ResNet-38 files of version 0.1.0 have for it."""


def _dilates_directly(x):
    return (
        keras.backend.backend() == "tensorflow"
        and all(side is not None and side <= LARGEST_DIRECT for side in x.shape[1:3])
        and has_dilated_gradient()
    )


@functools.cache
def has_dilated_gradient() -> bool:
    """Whether TensorFlow can differentiate a dilated convolution here; found by trying one."""
    import tensorflow as tf

    with tf.init_scope(), tf.device("CPU"):
        x, kernel = tf.zeros((1, 3, 3, 1)), tf.zeros((3, 3, 1, 1))
        try:
            tf.raw_ops.Conv2DBackpropFilter(
                input=x,
                filter_sizes=kernel.shape,
                out_backprop=x,
                strides=[1] * 4,
                padding="SAME",
                dilations=[1, 2, 2, 1],
            )
        except tf.errors.OpError:
            return False
    return True
