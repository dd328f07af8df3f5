"""ResNet-50 and ResNet-101 with torchvision's layout and names.

Source: He et al., CVPR 2016, in torchvision's variant with the stride in the 3x3 convolution.
`keras.applications.ResNet50` strides in the 1x1 convolution and has biases, so that torchvision's weights do
not fit there. Layers bear the names of the published state dicts, `-` for `.`.
"""

from typing import Any

import keras
from keras import layers

from wsss.backbones.base import IMAGENET_MEAN, Backbone, normalize_image
from wsss.layers.conv import convolve

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}  # of the four stages
EPSILON = 1e-5  # of every batch normalization


def resnet(
    image: Any = None,
    *,
    depth: int = 50,
    output_stride: int = 16,
    dilate: bool = True,
    prefix: str = "",
    normalize: bool = True,
    width: float = 1.0,
) -> tuple:
    """ResNet-50 or -101 as a functional Keras graph.

    Args:
        image: symbolic input (batch, height, width, 3), RGB in [0, 1]; made if None, with variable size.
        depth: 50 or 101.
        output_stride: 8, 16 or 32 pixels of the image per position of the last stage.
        dilate: whether removed strides are made up for by dilation, as in DeepLab. IRN removes the last
            stride and does not dilate.
        prefix: put before every layer's name.
        normalize: whether `image` still has to be normalized; False: it comes with zero mean.
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


def torchvision_backbone(depth: int = 50, output_stride: int = 16, **options) -> Backbone:
    """ResNet-50 or -101 in torchvision's layout, with random weights.

    Args:
        depth: 50 or 101.
        output_stride: 8, 16 or 32.
        **options: of `resnet`.
    """
    image, normalized, stem, *stages = resnet(depth=depth, output_stride=output_stride, **options)
    return Backbone(
        input=image,
        normalized=normalized,
        feature=stages[-1],
        stages=dict(zip((4, 8, 16, 32), stages)),
        output_stride=output_stride,
        preprocessing="torch",
        pad_value=IMAGENET_MEAN,
        stem=stem,
    )


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
