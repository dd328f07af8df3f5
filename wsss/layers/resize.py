"""Layers that resize one feature map to the size of another."""

import keras
from keras import layers, ops

from wsss.ops.resize import resize_bilinear


@keras.saving.register_keras_serializable(package="wsss")
class ResizeLike(layers.Layer):
    """Bilinear resizing (aligned corners) of the first input to the size of the second."""

    def call(self, inputs):
        x, like = inputs
        return resize_bilinear(x, ops.shape(like)[1:3], align_corners=True)

    def compute_output_shape(self, input_shapes):
        x, like = input_shapes
        return (x[0], *like[1:3], x[3])


@keras.saving.register_keras_serializable(package="wsss")
class UpsampleLike(layers.Layer):
    """Bilinear enlargement by a whole factor, cropped to the size of a second tensor.

    A feature map of half the stride is `ceil`ed to an even size on the way down; the crop takes away what the
    way up has too much.

    Args:
        factor: int >= 1.
    """

    def __init__(self, factor: int, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        x, reference = inputs
        _, height, width, _ = ops.shape(x)
        x = resize_bilinear(x, (height * self.factor, width * self.factor))
        _, height, width, _ = ops.shape(reference)
        return x[:, :height, :width]

    def compute_output_shape(self, input_shape):
        x, reference = input_shape
        return (*reference[:3], x[-1])

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}
