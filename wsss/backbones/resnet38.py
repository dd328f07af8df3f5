"""ResNet-38d at output stride 8, the backbone of AffinityNet, SEAM and Pixel-to-Prototype Contrast.

Source: Wu, Shen & van den Hengel, "Wider or Deeper", 2016, model A; dilation and names as in the released
code of AffinityNet (jiwoon-ahn/psa). The layers bear the names of the published state dicts, with `-` for
`.` (`b4_1-conv_branch2a`; Keras on PyTorch allows no dot), so that weights find their place by name.
"""

from typing import Any, NamedTuple

import keras
from keras import layers

from wsss.backbones.base import IMAGENET_MEAN, Backbone, normalize_image
from wsss.layers.conv import DilatedConv2D, convolve

FROZEN_STAGES = ("conv1a", "b2", "b2_1", "b2_2")  # not trained in the publications
OUTPUT_STRIDE = 8
EPSILON = 1e-5  # of every batch normalization


class ResNet38Features(NamedTuple):
    """Feature maps of ResNet-38d, as symbolic Keras tensors.

    Attributes:
        image: RGB in [0, 1], (batch, height, width, 3).
        normalized: the image as the first convolution sees it.
        stage4: normalized and activated input of block `b5`, (batch, height / 8, width / 8, 512).
        stage5: the same of block `b6`, 1024 channels.
        stage6: normalized and activated output, 4096 channels.
    """

    image: object
    normalized: object
    stage4: object
    stage5: object
    stage6: object


class _Block(NamedTuple):
    """One residual block: name, output channels, channels inside, stride, dilations, dropout."""

    name: str
    channels: int
    inner: int
    stride: int = 1
    first_dilation: int = 1
    dilation: int = 1


_BASIC_BLOCKS = (
    _Block("b2", 128, 128, stride=2),
    _Block("b2_1", 128, 128),
    _Block("b2_2", 128, 128),
    _Block("b3", 256, 256, stride=2),
    _Block("b3_1", 256, 256),
    _Block("b3_2", 256, 256),
    _Block("b4", 512, 512, stride=2),
    *(_Block(f"b4_{i}", 512, 512) for i in range(1, 6)),
    _Block("b5", 1024, 512, first_dilation=1, dilation=2),
    _Block("b5_1", 1024, 512, first_dilation=2, dilation=2),
    _Block("b5_2", 1024, 512, first_dilation=2, dilation=2),
)


def resnet38(
    image: Any = None, *, width: float = 1.0, dropout: bool = True, normalize: bool = True
) -> ResNet38Features:
    """ResNet-38d as a functional Keras graph.

    Args:
        image: symbolic input (batch, height, width, 3), RGB in [0, 1]; made if None, with variable size.
        width: > 0, factor on all channel counts; other than 1 only for experiments and quick tests.
        dropout: spatial dropout 0.3 inside block `b6` and 0.5 inside `b7`.
        normalize: whether `image` still has to be normalized; False: it comes with zero mean.

    Returns:
        The tensors that heads are built on.
    """
    if image is None:
        image = keras.Input((None, None, 3), name="image")
    normalized = normalize_image(image) if normalize else image
    x = convolve(normalized, _scaled(64, width), 3, name="conv1a")
    for block in _BASIC_BLOCKS:
        x, activated = _basic_block(x, block, width)
        if block.name == "b5":
            stage4 = activated
    x, stage5 = _bottleneck_block(x, "b6", _scaled(2048, width), 0.3 if dropout else 0.0)
    x, _ = _bottleneck_block(x, "b7", _scaled(4096, width), 0.5 if dropout else 0.0)
    return ResNet38Features(image, normalized, stage4, stage5, _normalize_and_activate(x, "bn7"))


def resnet38_backbone(**options) -> Backbone:
    """ResNet-38d at stride 8 with random weights.

    Args:
        **options: of `resnet38`.

    Returns:
        Its stages are named by the stride they have in the network before dilation.
    """
    features = resnet38(**options)
    return Backbone(
        input=features.image,
        normalized=features.normalized,
        feature=features.stage6,
        stages={8: features.stage4, 16: features.stage5, 32: features.stage6},
        output_stride=OUTPUT_STRIDE,
        preprocessing="torch",
        pad_value=IMAGENET_MEAN,
    )


def _scaled(channels, width):
    return max(4, round(channels * width))


def _basic_block(x, block, width):
    channels, inner = _scaled(block.channels, width), _scaled(block.inner, width)
    same_shape = x.shape[-1] == channels and block.stride == 1
    activated = _normalize_and_activate(x, f"{block.name}-bn_branch2a")
    y = convolve(activated, inner, 3, block.stride, block.first_dilation, name=f"{block.name}-conv_branch2a")
    y = _normalize_and_activate(y, f"{block.name}-bn_branch2b1")
    y = convolve(y, channels, 3, dilation=block.dilation, name=f"{block.name}-conv_branch2b1")
    if not same_shape:
        x = convolve(activated, channels, 1, block.stride, name=f"{block.name}-conv_branch1")
    return layers.Add(name=f"{block.name}-add")([x, y]), activated


def _bottleneck_block(x, name, channels, dropout):
    activated = _normalize_and_activate(x, f"{name}-bn_branch2a")
    y = convolve(activated, channels // 4, 1, name=f"{name}-conv_branch2a")
    y = _normalize_and_activate(y, f"{name}-bn_branch2b1")
    y = _drop_channels(y, dropout, f"{name}-dropout_2b1")
    y = DilatedConv2D(
        channels // 2, 3, padding="same", dilation_rate=4, use_bias=False, name=f"{name}-conv_branch2b1"
    )(y)
    y = _normalize_and_activate(y, f"{name}-bn_branch2b2")
    y = _drop_channels(y, dropout, f"{name}-dropout_2b2")
    y = convolve(y, channels, 1, name=f"{name}-conv_branch2b2")
    x = convolve(activated, channels, 1, name=f"{name}-conv_branch1")
    return layers.Add(name=f"{name}-add")([x, y]), activated


def _normalize_and_activate(x, name):
    x = layers.BatchNormalization(momentum=0.9, epsilon=EPSILON, name=name)(x)
    return layers.Activation("relu", name=f"{name}-relu")(x)


def _drop_channels(x, rate, name):
    return layers.SpatialDropout2D(rate, name=name)(x) if rate else x
