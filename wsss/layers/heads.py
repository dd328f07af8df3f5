"""Keras layers of the heads: resizing, scores of the image, pixel correlation."""

import math
from numbers import Integral

import keras
from keras import layers, ops

from wsss.ops.cam import add_background, max_onehot
from wsss.ops.correlation import pixel_correlation
from wsss.ops.resize import resize_bilinear

SPATIAL = (1, 2)


@keras.saving.register_keras_serializable(package="wsss")
class StopGradient(layers.Layer):
    """The input; nothing before it learns from what comes after."""

    def call(self, x):
        return ops.stop_gradient(x)

    def compute_output_shape(self, input_shape):
        return input_shape


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
class ImageScores(layers.Layer):
    """Class scores of the image, the mean of its maps: `(cam, image) -> (batch, classes)`.

    Args:
        upsample: take the mean of the maps as resized to the image (aligned corners), as the authors do. The
            cells at the border then weigh half.
    """

    def __init__(self, upsample=False, **kwargs):
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


@keras.saving.register_keras_serializable(package="wsss")
class PixelCorrelation(layers.Layer):
    """Refines class activation maps by the similarity of pixels: `(cam, feature) -> refined`.

    The maps are normalised, the background joins as 1 - maximum, of each pixel only the strongest class
    stays, and no gradient reaches them: what is learned here is the similarity. Source: Wang et al., CVPR
    2020 (SEAM), section 3.3, and the released code.

    Args:
        epsilon: > 0, against division by zero.
        max_positions: the similarity of all pairs is computed on at most this many cells; larger features are
            resized to a grid of that many, and the result back. The cost grows with the square.

    Returns:
        float (batch, height, width, 1 + classes) at the size of `feature`, background in channel 0.
    """

    def __init__(self, epsilon=1e-5, max_positions=12288, **kwargs):
        super().__init__(**kwargs)
        if max_positions < 1:
            raise ValueError(f"`max_positions` must be positive. Received: {max_positions}.")
        self.epsilon, self.max_positions = epsilon, max_positions

    def call(self, inputs):
        cam, feature = inputs
        size = ops.shape(feature)[1:3]
        grid = _grid_of_at_most(size, self.max_positions)
        feature = resize_bilinear(feature, grid, align_corners=True)
        cam = ops.stop_gradient(strongest_class(ops.cast(cam, "float32"), self.epsilon))
        refined = pixel_correlation(cam, feature, epsilon=self.epsilon)
        return resize_bilinear(refined, size, align_corners=True)

    def compute_output_shape(self, input_shapes):
        cam, feature = input_shapes
        return (*feature[:3], cam[-1] + 1)

    def compute_output_spec(self, inputs):
        shape = self.compute_output_shape([x.shape for x in inputs])
        return keras.KerasTensor(shape, dtype="float32")

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon, "max_positions": self.max_positions}


def strongest_class(cam, epsilon=1e-5):
    """What pixel correlation spreads: the background, and each pixel's strongest class, in [0, 1).

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
    image, low_feature, high_feature, like, *, channels=(64, 128), embedding=192, standardize=False
):
    """The feature in which SEAM compares pixels: colour and two stages of the backbone, embedded.

    Source: SEAM's released code: the image and the features of stages 4 (64 channels) and 5 (128) join to
    195 channels, which one more convolution embeds into 192. The stages do not learn from it.

    Args:
        image: Keras tensor (batch, height, width, 3), normalised.
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


def nonlocal_neural_network(
    x,
    g=None,
    use_gaussian=True,
    use_relu=False,
    embed1=None,
    embed2=None,
    mode="spatial",
    epsilon=1e-6,
    name="nonlocal",
):
    """Each position replaced by a mean over all positions, weighted by how alike they are.

    Source: Wang et al., "Non-local Neural Networks", CVPR 2018, equations 1 and 4; without the residual.

    Args:
        x: float (batch, height, width, channels), Keras tensor or array.
        g: what is averaged: a tensor of the size of `x`, or a function of `x`. None: `x` itself.
        use_gaussian: weights are the softmax of the dot products ("embedded Gaussian"); otherwise cosines,
            divided by their sum.
        use_relu: cosines below 0 count as 0.
        embed1, embed2: what is compared, each a tensor of the size of `x`, or a function of `x` (say,
            a layer). None: `x` itself.
        mode: "spatial", or "channel" to compare channels over all positions in place of positions; `g` then
            has as many channels as `embed2`.
        epsilon: > 0, against division by zero.
        name: of the layer.

    Returns:
        float (batch, height, width, channels of `g`); in the mode "channel" as many as `embed1` has.
    """
    parts = [
        x if part is None else part(x) if callable(part) and not hasattr(part, "shape") else part
        for part in (embed1, embed2, g)
    ]
    layer = NonLocal(use_gaussian, use_relu, mode, epsilon, name=name)
    if not use_gaussian and use_relu and mode == "spatial" and parts[0] is parts[1]:
        return layer([parts[0], parts[2]])
    return layer(parts)


@keras.saving.register_keras_serializable(package="wsss")
class NonLocal(layers.Layer):
    """The layer of `nonlocal_neural_network`, on `[embed1, embed2, g]`, or `[embed, g]` for both the same.

    The cosine of one embedding with `use_relu` is SEAM's pixel correlation and never holds the similarity of
    all pairs of positions; the other variants do.

    Args:
        use_gaussian, use_relu, mode, epsilon: see `nonlocal_neural_network`.
    """

    def __init__(self, use_gaussian=True, use_relu=False, mode="spatial", epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        if mode not in ("spatial", "channel"):
            raise ValueError(f'`mode` must be "spatial" or "channel". Received: {mode!r}.')
        self.use_gaussian, self.use_relu, self.mode, self.epsilon = use_gaussian, use_relu, mode, epsilon

    def call(self, inputs):
        *embeddings, values = inputs
        if len(embeddings) == 1:
            return pixel_correlation(values, embeddings[0], epsilon=self.epsilon)
        batch, height, width, _ = ops.shape(values)
        first, second, values = (_as_rows(x, self.mode) for x in (*embeddings, values))
        if not self.use_gaussian:
            first, second = (_unit_rows(x, self.epsilon) for x in (first, second))
        similarity = ops.matmul(first, ops.transpose(second, (0, 2, 1)))
        if self.use_gaussian:
            weights = ops.softmax(similarity, axis=-1)
        else:
            weights = ops.relu(similarity) if self.use_relu else similarity
            weights = weights / (ops.sum(weights, axis=-1, keepdims=True) + self.epsilon)
        result = ops.matmul(weights, values)
        if self.mode == "channel":
            result = ops.transpose(result, (0, 2, 1))
        return ops.reshape(result, (batch, height, width, result.shape[-1]))

    def compute_output_shape(self, input_shapes):
        first, *_, values = input_shapes
        return (*values[:3], first[-1] if self.mode == "channel" else values[-1])

    def get_config(self):
        own = {
            "use_gaussian": self.use_gaussian,
            "use_relu": self.use_relu,
            "mode": self.mode,
            "epsilon": self.epsilon,
        }
        return {**super().get_config(), **own}


def _as_rows(x, mode):
    """`(batch, positions, channels)`, or transposed where channels are compared."""
    batch, height, width, channels = ops.shape(x)
    rows = ops.reshape(x, (batch, height * width, channels))
    return rows if mode == "spatial" else ops.transpose(rows, (0, 2, 1))


def _unit_rows(x, epsilon):
    squares = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x / (ops.sqrt(ops.maximum(squares, epsilon**2)) + epsilon)
