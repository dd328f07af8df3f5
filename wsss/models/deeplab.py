"""DeepLab: the segmentation network that learns from label maps, such as pseudo labels."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from wsss.backbones.base import Backbone
from wsss.layers.conv import DilatedConv2D
from wsss.layers.resize import ResizeLike
from wsss.models.network_model import NetworkModel
from wsss.models.replicas import mean_over_replicas
from wsss.ops.resize import resize_bilinear
from wsss.ops.segmentation import pixel_cross_entropy

HEADS = ("deeplabv3plus", "largefov", "deeplabv2")
DECODER_STRIDE = 4  # of the fine features that DeepLabV3+ reads
_LARGE_FOV_RATE = 12
_V2_RATES = (6, 12, 18, 24)


@keras.saving.register_keras_serializable(package="wsss")
class DeepLab(NetworkModel):
    """Semantic segmentation network: the class of every pixel, the background's included.

    Source: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
    ECCV 2018 (DeepLabV3+), and, by `head`, the earlier ones of the family. Trains by `compile(optimizer)`,
    without a loss, and `fit` on images and label maps: int (batch, height, width), 0 background, 1..K class,
    255 ignore, with an optional weight of each image as `sample_weight`. `predict` gives logits.

    Args:
        image_input: `keras.Input` (batch, height, width, 3).
        logits_output: Keras tensor (batch, h, w, 1 + classes), such as of `segmentation_logits`.
        network: the complete functional model in place of the first two arguments; used by loading.

    Attributes:
        classes: number of classes, without background.
        probabilities: Keras model, images -> float32 (batch, h, w, 1 + classes), softmax at the resolution of
            the logits, background in channel 0.
        classifier: Keras model, images -> float32 (batch, classes): the largest probability of each class
            over the positions.
        network: the functional model with all outputs, on the same weights.

    Example:
        >>> import numpy as np
        >>> from wsss.backbones.tiny import small_backbone
        >>> model = DeepLab.from_backbone(small_backbone(width=8), classes=3, channels=16)
        >>> model.compile("adam")
        >>> images, label_maps = np.zeros((2, 32, 48, 3), "float32"), np.zeros((2, 32, 48), "uint8")
        >>> history = model.fit(images, label_maps, verbose=0)
        >>> model.probabilities.predict(images, verbose=0).shape
        (2, 8, 12, 4)
    """

    def __init__(
        self,
        image_input: Any = None,
        logits_output: Any = None,
        *,
        network: keras.Model | None = None,
        name: str = "deeplab",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if network is None:
            network = _with_probabilities(image_input, logits_output)
        self.network = network
        self.classes = int(network.output["logits"].shape[-1]) - 1
        self._term_metrics = {
            term: keras.metrics.Mean(name=term) for term in ("segmentation_loss", "pixel_accuracy")
        }
        self.built = True

    @classmethod
    def from_backbone(cls, backbone: Backbone, classes: int, *, name: str = "deeplab", **options) -> DeepLab:
        """Builds the model on the features of a backbone.

        Args:
            backbone: `Backbone`.
            classes: number of classes, without background.
            name: of the model.
            **options: of `segmentation_logits`.
        """
        return cls(backbone.input, segmentation_logits(backbone, classes, **options), name=name)

    def call(self, x, training=None):
        """Logits, float32 (batch, h, w, 1 + classes)."""
        return self.run_network(x, training)["logits"]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Cross-entropy, mean over the labeled pixels of the batch of all replicas; the weights multiply it.

        Args:
            x: images; not used.
            y: int (batch, height, width), label maps, to whose size the logits are resized.
            y_pred: logits.
            sample_weight: float (batch,), weights of the images, or None.
            training: not used.
        """
        logits = resize_bilinear(ops.cast(y_pred, "float32"), ops.shape(y)[1:3])
        pixels = pixel_cross_entropy(logits, y)
        known = ops.sum(pixels.known)
        of_images = ops.sum(pixels.loss, axis=(1, 2))
        if sample_weight is not None:
            of_images = of_images * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        loss = ops.sum(of_images) / ops.maximum(mean_over_replicas(known), 1.0)
        self._term_metrics["segmentation_loss"].update_state(loss)
        accuracy = ops.sum(pixels.correct) / ops.maximum(known, 1.0)
        self._term_metrics["pixel_accuracy"].update_state(accuracy, sample_weight=known)
        total = self._aggregate_additional_loss(loss)
        for extra in self.losses:
            total = total + self._aggregate_additional_loss(extra)
        return total

    @property
    def metrics(self):
        return [*super().metrics, *self._term_metrics.values()]

    @functools.cached_property
    def probabilities(self) -> keras.Model:
        """Keras model, images -> probabilities (batch, h, w, 1 + classes)."""
        return keras.Model(self.network.input, self.network.output["probabilities"], name="probabilities")

    @functools.cached_property
    def classifier(self) -> keras.Model:
        """Keras model, images -> the largest probability of each class (batch, classes)."""
        return keras.Model(self.network.input, self.network.output["scores"], name="classifier")

    def get_config(self) -> dict:
        """The whole network; JSON serializable."""
        return {
            **super().get_config(),
            "name": self.name,
            "network": keras.saving.serialize_keras_object(self.network),
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects=None):
        """The model of `get_config`, with new weights; `config` is left as it is."""
        config = copy.deepcopy(config)
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects=custom_objects)
        return cls(**{**config, "network": network})


def segmentation_logits(
    backbone: Backbone,
    classes: int,
    head: str = "deeplabv3plus",
    *,
    channels: int = 256,
    rates: Sequence[int] = (6, 12, 18),
    dropout: float = 0.1,
) -> Any:
    """Logits of the background and the classes on a backbone's features.

    New layers are normalized by groups of channels, where the publications use synchronized batch
    normalization: neither the batch size nor the number of replicas changes what is learned.

    Args:
        backbone: `Backbone`.
        classes: number of classes, without background.
        head: "deeplabv3plus": convolutions at several rates and the mean of the image, then a decoder with
            features at stride 4 (ECCV 2018); "largefov": one convolution at rate 12 (Chen et al., ICLR 2015);
            "deeplabv2": the sum of classifiers at rates 6, 12, 18 and 24 (Chen et al., TPAMI 2018).
        channels: of the layers of the head; of no effect on "deeplabv2".
        rates: of "deeplabv3plus" at output stride 16; they double at stride 8.
        dropout: in [0, 1), fraction of the channels dropped before the last layer while training; of no
            effect on "deeplabv2".

    Returns:
        Keras tensor (batch, h, w, 1 + classes).

    Raises:
        ValueError: another `head`, or `classes` is not positive.
    """
    if classes < 1:
        raise ValueError(f"`classes` must be positive. Received: {classes}.")
    if head not in HEADS:
        raise ValueError(f"`head` must be one of {HEADS}. Received: {head!r}.")
    if head == "deeplabv2":
        normal = keras.initializers.RandomNormal(stddev=0.01)
        branches = [
            DilatedConv2D(
                classes + 1,
                3,
                padding="same",
                dilation_rate=rate,
                kernel_initializer=normal,
                name=f"classifier_rate{rate}",
            )(backbone.feature)
            for rate in _V2_RATES
        ]
        return layers.Add(name="classifier_sum")(branches)
    if head == "largefov":
        x = DilatedConv2D(
            channels,
            3,
            padding="same",
            dilation_rate=_LARGE_FOV_RATE,
            use_bias=False,
            kernel_initializer="he_normal",
            name="large_fov",
        )(backbone.feature)
        x = _project(_normalize(x, "large_fov"), channels, "large_fov_projection")
    else:
        x = _decode(_pyramid(backbone, channels, rates), backbone, channels)
    x = layers.SpatialDropout2D(dropout, name="head_dropout")(x)
    return layers.Conv2D(classes + 1, 1, name="pixel_classifier")(x)


def _pyramid(backbone, channels, rates):
    """Atrous spatial pyramid pooling: one position, several rates, and the mean of the image, projected."""
    x, factor = backbone.feature, max(1, 16 // backbone.output_stride)
    branches = [_project(x, channels, "pyramid_point")]
    for rate in rates:
        branches.append(_separable(x, channels, f"pyramid_rate{rate}", factor * rate))
    mean = layers.GlobalAveragePooling2D(keepdims=True, name="pyramid_mean")(x)
    mean = layers.Conv2D(
        channels, 1, activation="relu", kernel_initializer="he_normal", name="pyramid_image"
    )(mean)
    branches.append(ResizeLike(name="pyramid_image_resize")([mean, x]))
    return _project(layers.Concatenate(name="pyramid")(branches), channels, "pyramid_projection")


def _decode(x, backbone, channels):
    """Two convolutions of the pyramid's output and of fine features, at the size of the latter."""
    fine = next((x for stride, x in backbone.stages.items() if stride >= DECODER_STRIDE), backbone.feature)
    fine = _project(fine, min(48, channels), "decoder_fine")
    x = layers.Concatenate(name="decoder")([ResizeLike(name="decoder_resize")([x, fine]), fine])
    return _separable(_separable(x, channels, "decoder_1"), channels, "decoder_2")


def _separable(x, channels, name, rate=1):
    """Depthwise separable convolution."""
    x = layers.DepthwiseConv2D(
        3, padding="same", dilation_rate=rate, use_bias=False, name=f"{name}_depthwise"
    )(x)
    return _project(x, channels, name)


def _project(x, channels, name):
    """Convolution of single positions, normalized and rectified."""
    x = layers.Conv2D(channels, 1, use_bias=False, kernel_initializer="he_normal", name=name)(x)
    return _normalize(x, name)


def _normalize(x, name):
    groups = next(groups for groups in (32, 16, 8, 4, 2, 1) if x.shape[-1] % groups == 0)
    x = layers.GroupNormalization(groups, name=f"{name}_norm")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)


def _with_probabilities(image, logits):
    """The functional model with `logits`, their softmax and the largest probability of each class."""
    logits = layers.Activation("linear", dtype="float32", name="logits")(logits)
    probabilities = layers.Softmax(dtype="float32", name="pixel_probabilities")(logits)
    scores = layers.GlobalMaxPooling2D(dtype="float32", name="scores")(probabilities[..., 1:])
    outputs = {"logits": logits, "probabilities": probabilities, "scores": scores}
    return keras.Model(image, outputs, name="network")
