"""Layers of the classification head: gradient stop and class scores of an image."""

import keras
from keras import layers, ops

from wsss.ops.resize import resize_bilinear

SPATIAL = (1, 2)


@keras.saving.register_keras_serializable(package="wsss")
class StopGradient(layers.Layer):
    """Identity that blocks gradients."""

    def call(self, x):
        return ops.stop_gradient(x)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="wsss")
class ImageScores(layers.Layer):
    """Class scores of the image, the mean of its maps: `(cam, image) -> (batch, classes)`.

    Args:
        upsample: take the mean of the maps as resized to the image (aligned corners), as the authors do. The
            cells at the border then weigh half.
    """

    def __init__(self, upsample: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.upsample = upsample

    def call(self, inputs):
        cam, image = inputs
        if not self.upsample:
            return ops.mean(cam, axis=SPATIAL)
        # The mean along an axis right after its resizing: nothing of the size of the image is held.
        height, width = ops.shape(image)[1:3]
        columns = ops.mean(
            resize_bilinear(cam, (height, ops.shape(cam)[2]), align_corners=True), axis=1, keepdims=True
        )
        return ops.mean(resize_bilinear(columns, (1, width), align_corners=True), axis=SPATIAL)

    def compute_output_shape(self, input_shapes):
        return (input_shapes[0][0], input_shapes[0][-1])

    def get_config(self):
        return {**super().get_config(), "upsample": self.upsample}
