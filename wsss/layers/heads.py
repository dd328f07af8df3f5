"""Layers of the classification head: gradient stop and class scores of an image."""

from collections.abc import Sequence

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
        offset: constants `(classes,)` that are added to the means, but not to the maps; None: none.
    """

    def __init__(self, upsample: bool = False, offset: Sequence[float] | None = None, **kwargs):
        super().__init__(**kwargs)
        self.upsample = upsample
        self.offset = None if offset is None else tuple(map(float, offset))

    def call(self, inputs):
        scores = self._means(*inputs)
        return scores if self.offset is None else scores + ops.convert_to_tensor(self.offset, scores.dtype)

    def _means(self, cam, image):
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
        config = {**super().get_config(), "upsample": self.upsample}
        return config if self.offset is None else {**config, "offset": list(self.offset)}
