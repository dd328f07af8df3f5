"""ResNet-50 and ResNet-101 with torchvision's layout and names, and IRN's branches on them or on any CNN.

Source: Ahn, Cho & Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations",
CVPR 2019, and the released code (jiwoon-ahn/irn); He et al., CVPR 2016, in torchvision's variant with the
stride in the 3x3 convolution. `keras.applications.ResNet50` strides in the 1x1 convolution and has biases, so
that torchvision's weights do not fit there. Layers bear the names of the published state dicts, `-` for `.`.
"""

from typing import Any, NamedTuple

import keras
from keras import layers, ops

from wsss.backbones.resnet38 import EPSILON, convolve, normalize_image
from wsss.layers.heads import StopGradient
from wsss.ops.resize import resize_bilinear

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}  # of the four stages


def resnet(
    image=None, *, depth=50, output_stride=16, dilate=True, prefix="", normalize=True, width=1.0
) -> tuple:
    """ResNet-50 or -101 as a functional Keras graph.

    Args:
        image: symbolic input (batch, height, width, 3), RGB in [0, 1]; made if None, with variable size.
        depth: 50 or 101.
        output_stride: 8, 16 or 32 pixels of the image per position of the last stage.
        dilate: whether removed strides are made up for by dilation, as in DeepLab. IRN removes the last
            stride and does not dilate.
        prefix: put before every layer's name.
        normalize: whether `image` still has to be normalised; False: it comes with zero mean.
        width: > 0, factor on all channel counts; other than 1 only for quick tests.

    Returns:
        `(image, normalized image, stem, stage1, stage2, stage3, stage4)`, symbolic tensors; stem and stage 1
        have stride 4.
    """
    if depth not in BLOCKS:
        raise ValueError(f"`depth` must be one of {sorted(BLOCKS)}. Received: {depth}.")
    if output_stride not in _STRIDES:
        raise ValueError(f"`output_stride` must be one of {sorted(_STRIDES)}. Received: {output_stride}.")
    if image is None:
        image = keras.Input((None, None, 3), name="image")
    normalized = normalize_image(image) if normalize else image
    base = max(4, round(64 * width))
    x = convolve(normalized, base, 7, 2, name=f"{prefix}conv1")
    x = _normalize(x, f"{prefix}bn1")
    x = layers.ZeroPadding2D(1, name=f"{prefix}maxpool-pad")(layers.ReLU(name=f"{prefix}relu")(x))
    x = layers.MaxPooling2D(3, 2, name=f"{prefix}maxpool")(x)  # padded with 0, the smallest value after ReLU
    outputs = [x]
    dilation = 1
    for stage, (blocks, stride) in enumerate(zip(BLOCKS[depth], _STRIDES[output_stride]), start=1):
        first_dilation = dilation
        if dilate and stage > 1 and stride == 1:
            dilation *= 2
        for i in range(blocks):
            x = _bottleneck(
                x,
                f"{prefix}layer{stage}-{i}",
                base * 2 ** (stage - 1),
                stride if i == 0 else 1,
                first_dilation if i == 0 else dilation,
            )
        outputs.append(x)
    return (image, normalized, *outputs)


def irn_cam(classes=20, **options) -> keras.Model:
    """IRN's classification network: `model(images)` gives its class activation maps, before the ReLU.

    The class scores are the spatial means of the maps. Merge an image with its mirror by
    `relu(cam) + flip(relu(cam of the mirror))`.

    Args:
        classes: foreground classes.
        **options: of `resnet`.

    Returns:
        Model from images to float (batch, height / 16, width / 16, classes).
    """
    image, *_, feature = resnet(**_irn_options(options))
    cam = layers.Conv2D(classes, 1, use_bias=False, name="classifier")(feature)
    return keras.Model(image, cam, name="irn_cam")


def irn_edge(**options) -> keras.Model:
    """IRN's inter-pixel relation network on ResNet-50; see `relation_network`.

    Args:
        **options: of `resnet`.
    """
    image, _, stem, *stages = resnet(**_irn_options(options))
    return relation_network(image, dict(zip((4, 8, 16, 32), stages)), 16, stem)


def relation_network(image, stages, output_stride, stem=None) -> keras.Model:
    """Class boundaries, and the displacement of each pixel to the centroid of its instance.

    The network below is frozen; both branches see all of its stages from stride 4 on.

    Args:
        image: `keras.Input` (batch, height, width, 3).
        stages: stride of the original network -> Keras tensor, 4 and 8 among the strides.
        output_stride: pixels of the image per position of the last stage.
        stem: Keras tensor at stride 4, before the first stage; None leaves its branches out.

    Returns:
        Model from images to a dictionary of `edge`, float (batch, height / 4, width / 4, 1), logits, and
        `displacement`, float (batch, height / 4, width / 4, 2), in positions, (y, x).

    Raises:
        ValueError: there is no stage at stride 4, or none at stride 8.
    """
    if not {4, 8} <= set(stages) or output_stride < 8:
        raise ValueError(
            "IRN's branches need a stage at stride 4 and one at stride 8. Received: strides "
            f"{', '.join(map(str, stages))} at output stride {output_stride}."
        )
    backbone = keras.Model(image, list(stages.values()))
    branched = [_Stage(1, 4, stem)] if stem is not None else []
    branched += [
        _Stage(number, min(stride, output_stride), stages[stride])
        for number, stride in enumerate((4, 8, 16, 32), start=2)
        if stride in stages
    ]
    branched = [stage._replace(feature=StopGradient()(stage.feature)) for stage in branched]
    edge, displacement = _edge_branch(branched), _displacement_branch(branched)
    for layer in backbone.layers:
        layer.trainable = False
    return keras.Model(image, {"edge": edge, "displacement": displacement}, name="irn_edge")


def merge_mirrored_edges(edge, mirrored_edge):
    """Boundary probability of an image from its own and its mirror's logits.

    Args:
        edge: float (batch, height, width, 1), logits of the image, cropped to its size.
        mirrored_edge: the same of the mirrored image, not yet mirrored back.

    Returns:
        float (batch, height, width, 1), in (0, 1).
    """
    return ops.sigmoid(ops.add(edge, ops.flip(mirrored_edge, axis=2)) / 2)


@keras.saving.register_keras_serializable(package="wsss")
class MeanShift(layers.Layer):
    """Subtracts the mean displacement of the training set in inference, nothing in training.

    The weight `moving_mean` (channels) is not trained but measured, as a batch normalisation's: while
    training it follows the batches' means.

    Args:
        momentum: of the moving mean, in [0, 1].
    """

    def __init__(self, momentum=0.9, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum

    def build(self, input_shape):
        self.moving_mean = self.add_weight(
            shape=(input_shape[-1],),
            initializer="zeros",
            trainable=False,
            aggregation="mean",  # over replicas
            name="moving_mean",
        )

    def call(self, x, training=False):
        if not training:
            return x - ops.cast(self.moving_mean, x.dtype)
        mean = ops.cast(ops.mean(x, axis=(0, 1, 2)), self.moving_mean.dtype)
        self.moving_mean.assign(self.momentum * self.moving_mean + (1 - self.momentum) * mean)
        return x

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


@keras.saving.register_keras_serializable(package="wsss")
class UpsampleLike(layers.Layer):
    """Bilinear enlargement by a whole factor, cropped to the size of a second tensor.

    A feature map of half the stride is `ceil`ed to an even size on the way down; the crop takes away what the
    way up has too much.

    Args:
        factor: int >= 1.
    """

    def __init__(self, factor, **kwargs):
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


def _irn_options(options):
    return {"prefix": "resnet50-", "output_stride": 16, "dilate": False, **options}


class _Stage(NamedTuple):
    """Features that the branches see: their published number, their stride, and themselves."""

    number: int
    stride: int
    feature: Any


def _edge_branch(stages):
    reference = _first_of_stride(stages, 4)
    branches = [
        _branch(
            stage.feature,
            f"fc_edge{stage.number}",
            32,
            groups=4,
            factor=stage.stride // 4,
            reference=reference,
        )
        for stage in stages
    ]
    return layers.Conv2D(1, 1, name="fc_edge6")(layers.Concatenate(name="fc_edge")(branches))


def _displacement_branch(stages):
    references = {stride: _first_of_stride(stages, stride) for stride in (4, 8)}
    fine, coarse = [], []
    for stage in stages:
        to_stride = min(stage.stride, 8)
        branch = _branch(
            stage.feature,
            f"fc_dp{stage.number}",
            {1: 64, 2: 128}.get(stage.number, 256),
            groups=8 if stage.number == 1 else 16,
            factor=stage.stride // to_stride,
            reference=references[to_stride],
        )
        (fine if to_stride == 4 else coarse).append(branch)
    x = layers.Concatenate(name="fc_dp_coarse")(coarse)
    fine.append(_branch(x, "fc_dp6", 256, groups=16, factor=2, reference=references[4]))
    x = _branch(layers.Concatenate(name="fc_dp_fine")(fine), "fc_dp7", 256, groups=16)
    x = layers.Conv2D(2, 1, use_bias=False, name="fc_dp7-3")(x)
    return MeanShift(name="mean_shift")(x)


def _first_of_stride(stages, stride):
    return next(stage.feature for stage in stages if stage.stride == stride)


def _branch(x, name, channels, *, groups, factor=1, reference=None):
    """1x1 convolution, group normalisation, enlargement, ReLU; numbered as in the published `Sequential`s."""
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}-0")(x)
    x = layers.GroupNormalization(groups, epsilon=EPSILON, name=f"{name}-1")(x)
    if factor > 1:
        x = UpsampleLike(factor, name=f"{name}-up")([x, reference])
    return layers.ReLU(name=f"{name}-relu")(x)


def _bottleneck(x, name, inner, stride, dilation):
    channels = 4 * inner
    y = _normalize(convolve(x, inner, 1, name=f"{name}-conv1"), f"{name}-bn1")
    y = layers.ReLU(name=f"{name}-relu1")(y)
    y = _normalize(convolve(y, inner, 3, stride, dilation, name=f"{name}-conv2"), f"{name}-bn2")
    y = layers.ReLU(name=f"{name}-relu2")(y)
    y = _normalize(convolve(y, channels, 1, name=f"{name}-conv3"), f"{name}-bn3")
    if stride > 1 or x.shape[-1] != channels:
        x = convolve(x, channels, 1, stride, name=f"{name}-downsample-0")
        x = _normalize(x, f"{name}-downsample-1")
    return layers.ReLU(name=f"{name}-relu3")(layers.Add(name=f"{name}-add")([x, y]))


def _normalize(x, name):
    return layers.BatchNormalization(momentum=0.9, epsilon=EPSILON, name=name)(x)
