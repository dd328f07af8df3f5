"""Pixel correlation of SEAM as a layer, and the embedding that it compares pixels by."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import keras
from keras import layers, ops

from wsss.layers.heads import StopGradient
from wsss.layers.resize import ResizeLike
from wsss.ops.cam import add_background, max_onehot
from wsss.ops.correlation import pixel_correlation
from wsss.ops.resize import resize_bilinear

SPATIAL = (1, 2)


@keras.saving.register_keras_serializable(package="wsss")
class PixelCorrelation(layers.Layer):
    """Refines class activation maps by the similarity of pixels: `(cam, feature) -> refined`.

    The maps are normalized, the background joins as 1 - maximum, of each pixel only the strongest class
    stays, and no gradient reaches them: what is learned here is the similarity. Source: Wang et al., CVPR
    2020 (SEAM), section 3.3, and the released code.

    Args:
        epsilon: > 0, against division by zero.
        max_positions: the similarity of all pairs is computed on at most this many cells; larger features are
            resized to a grid of that many, and the result back. The cost grows with the square.
        block_elements: > 0, similarities held at once, see `pixel_correlation`. None: by the device.

    Returns:
        float (batch, height, width, 1 + classes) at the size of `feature`, background in channel 0.
    """

    def __init__(
        self,
        epsilon: float = 1e-5,
        max_positions: int = 12288,
        block_elements: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if max_positions < 1:
            raise ValueError(f"`max_positions` must be positive. Received: {max_positions}.")
        self.epsilon, self.max_positions, self.block_elements = epsilon, max_positions, block_elements

    def call(self, inputs):
        cam, feature = inputs
        size = ops.shape(feature)[1:3]
        grid = _grid_of_at_most(size, self.max_positions)
        feature = resize_bilinear(feature, grid, align_corners=True)
        cam = ops.stop_gradient(strongest_class(ops.cast(cam, "float32"), self.epsilon))
        refined = pixel_correlation(cam, feature, self.epsilon, self.block_elements)
        return resize_bilinear(refined, size, align_corners=True)

    def compute_output_shape(self, input_shapes):
        cam, feature = input_shapes
        return (*feature[:3], cam[-1] + 1)

    def compute_output_spec(self, inputs: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
        shape = self.compute_output_shape([x.shape for x in inputs])
        return keras.KerasTensor(shape, dtype="float32")

    def get_config(self):
        own = {
            "epsilon": self.epsilon,
            "max_positions": self.max_positions,
            "block_elements": self.block_elements,
        }
        return {**super().get_config(), **own}


def strongest_class(cam: Any, epsilon: float = 1e-5) -> Any:
    """Normalized maps of the background and of each pixel's strongest class, the values of pixel correlation.

    Args:
        cam: float (batch, height, width, classes), raw.
        epsilon: > 0.

    Returns:
        float (batch, height, width, 1 + classes): `relu(relu(cam) - epsilon) / (max + epsilon)`, of which a
        pixel keeps its largest value, after the background, which is 1 - that value.
    """
    positive = ops.relu(cam)
    highest = ops.max(positive, axis=SPATIAL, keepdims=True) + epsilon
    with_background = add_background(ops.relu(positive - epsilon) / highest)
    return ops.concatenate(
        [with_background[..., :1], max_onehot(with_background[..., 1:])],
        axis=-1,
    )


def correlation_embedding(
    image: Any,
    low_feature: Any,
    high_feature: Any,
    like: Any,
    *,
    channels: tuple[int, int] = (64, 128),
    embedding: int = 192,
    standardize: bool = False,
) -> Any:
    """The feature in which SEAM compares pixels: color and two stages of the backbone, embedded.

    Source: SEAM's released code: the image and the features of stages 4 (64 channels) and 5 (128) join to
    195 channels, which one more convolution embeds into 192. The stages do not learn from it.

    Args:
        image: Keras tensor (batch, height, width, 3), normalized.
        low_feature: Keras tensor, features of an earlier stage.
        high_feature: Keras tensor, features of a later one.
        like: Keras tensor whose height and width the result has.
        channels: channels of the two embedded stages.
        embedding: channels of the result.
        standardize: every one of the 195 channels has mean 0 and variance 1 over the positions of an image.
            As released (False), what all positions have in common makes all alike: with the features of
            MobileNetV2 99.5 % of the pairs are positive, and the refined map is wide. Where features are
            sparser, as in MobileNetEdgeTPU, nothing is won.

    Returns:
        Keras tensor (batch, *size of `like`, embedding).
    """
    parts = [ResizeLike()([image, like])]
    stages = zip((low_feature, high_feature), channels, ("correlation_low", "correlation_high"))
    for feature, width, name in stages:
        convolution = layers.Conv2D(
            width, 1, use_bias=False, activation="relu", kernel_initializer="he_normal", name=name
        )
        parts.append(ResizeLike()([convolution(StopGradient()(feature)), like]))
    joined = layers.Concatenate()(parts)
    if standardize:
        each_channel = {"groups": -1, "center": False, "scale": False}
        joined = layers.GroupNormalization(**each_channel, name="correlation_standardized")(joined)
    xavier_of_gain_4 = keras.initializers.VarianceScaling(16.0, mode="fan_avg", distribution="uniform")
    return layers.Conv2D(
        embedding, 1, use_bias=False, kernel_initializer=xavier_of_gain_4, name="correlation_embedding"
    )(joined)


def _grid_of_at_most(size, positions):
    """`size` itself, or the largest grid of about its shape with at most `positions` cells."""
    height, width = size
    if all(isinstance(side, Integral) for side in size):
        scale = math.sqrt(positions / (height * width))
        return size if scale >= 1 else tuple(max(int(side * scale), 1) for side in size)
    height, width = ops.cast(height, "float32"), ops.cast(width, "float32")
    scale = ops.minimum(ops.sqrt(positions / (height * width)), 1.0)
    return tuple(ops.cast(ops.maximum(ops.floor(side * scale), 1), "int32") for side in (height, width))
