"""`Backbone`, the common interface of feature extractors, with input normalization and freezing."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from wsss.layers.correlation import correlation_embedding

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network that turns an image into a feature map, as Keras tensors.

    Attributes:
        input: float (batch, height, width, 3), RGB in [0, 1].
        normalized: the input as the pretrained network expects it.
        feature: the deepest features, `output_stride` pixels a cell.
        stages: stride of the original network -> its last features at that stride; the last is `feature`.
        output_stride: pixels of the image per cell of `feature`.
        preprocessing: name of the normalization: "tf", "torch", "caffe", "raw" or "none".
        pad_value: the color in [0, 1] that the network sees as 0, for padding images.
        stem: the features at stride 4 before the first block; None where that is not known.

    Example:
        >>> from wsss.backbones.tiny import small_backbone
        >>> backbone = small_backbone(output_stride=8, width=8)
        >>> backbone.output_stride, sorted(backbone.stages)
        (8, [4, 8, 16])
        >>> features = keras.Model(backbone.input, backbone.feature)  # a network like any other
    """

    input: Any
    normalized: Any
    feature: Any
    stages: dict
    output_stride: int
    preprocessing: str
    pad_value: tuple[float, float, float]
    stem: Any = None

    def correlation_feature(
        self, channels: tuple[int, int] = (64, 128), embedding: int = 192, standardize: bool = False
    ) -> Any:
        """SEAM's feature for pixel correlation: embedded colors and the two stages before the last.

        Args:
            channels: channels of the two embedded stages.
            embedding: channels of the result.
            standardize: see `correlation_embedding`.

        Returns:
            Keras tensor (batch, *size of `feature`, embedding).
        """
        shallowest, *_ = stages = list(self.stages.values())
        low, high = ([shallowest] * 2 + stages[:-1])[-2:]
        return correlation_embedding(
            self.normalized,
            low,
            high,
            self.feature,
            channels=channels,
            embedding=embedding,
            standardize=standardize,
        )


def freeze(
    model: keras.Model, batch_norm: bool = True, prefixes: Sequence[str] = (), fraction: float = 0.0
) -> None:
    """Freezes batch normalization and chosen layers of a model, so that training leaves them alone.

    Args:
        model: `keras.Model`.
        batch_norm: freeze every batch normalization, statistics included.
        prefixes: freeze layers whose names begin so.
        fraction: in [0, 1], freeze this fraction of the layers with weights, from the input on.

    Raises:
        ValueError: `fraction` outside of [0, 1], or a prefix that no layer has.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"`frozen_fraction` must lie in [0, 1]. Received: {fraction}.")
    names = [layer.name for layer in model.layers]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"No layer's name begins with {prefix!r}. Layers: {', '.join(names)}.")
    weighted = [layer for layer in model.layers if layer.weights]
    early = {id(layer) for layer in weighted[: round(fraction * len(weighted))]}
    for layer in weighted:
        frozen = batch_norm and isinstance(layer, layers.BatchNormalization)
        if frozen or id(layer) in early or any(layer.name.startswith(prefix) for prefix in prefixes):
            layer.trainable = False


def normalize_image(image: Any, name: str = "normalize") -> Any:
    """RGB in [0, 1] to zero mean and unit variance over ImageNet, as a layer."""
    scale = [1 / deviation for deviation in IMAGENET_DEVIATION]
    offset = [-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_DEVIATION)]
    return layers.Rescaling(scale, offset, name=name)(image)
