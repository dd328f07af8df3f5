"""AffinityNet: a feature map in which pixels of one object lie close together."""

from typing import Any

import keras
from keras import layers

from wsss.layers.resize import ResizeLike
from wsss.models.pair_model import PairModel, pair_fraction
from wsss.ops.affinity import AffinityLoss, affinity_loss, feature_affinity, pair_labels, pair_offsets


@keras.saving.register_keras_serializable(package="wsss")
class AffinityNet(PairModel):
    """Learns from label maps how likely neighboring pixels share a class.

    Source: Ahn & Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly
    Supervised Semantic Segmentation", CVPR 2018. Trains as every `PairModel`; `predict` gives the features.

    Args:
        image_input: `keras.Input` (batch, height, width, 3).
        feature_output: Keras tensor (batch, h, w, channels), the feature to compare; see `affinity_feature`.
        radius: int >= 2, positions; pairs nearer than this are learned and given.
        network: functional model from images to features, in place of the first two.

    Attributes:
        affinity: Keras model, images -> float (batch, h, w, offsets), affinity of every position and its
            neighbor at each offset of `wsss.ops.affinity.pair_offsets(radius)`, 0 beyond the border. The
            random walk takes it as it is.
        network: functional model, images -> features.

    Example:
        >>> import numpy as np
        >>> from wsss.backbones.tiny import small_backbone
        >>> backbone = small_backbone(width=8)
        >>> model = AffinityNet(backbone.input, affinity_feature(*backbone.stages.values()), radius=3)
        >>> model.compile("adam")
        >>> images, label_maps = np.zeros((2, 64, 64, 3), "float32"), np.zeros((2, 64, 64), "int32")
        >>> history = model.fit(images, label_maps, verbose=0)
        >>> model.affinity.predict(images, verbose=0).shape
        (2, 8, 8, 12)
    """

    LOSS_TERMS = ("background_loss", "foreground_loss", "negative_loss")

    def __init__(
        self,
        image_input: Any = None,
        feature_output: Any = None,
        radius: int = 5,
        *,
        network: keras.Model | None = None,
        name: str = "affinity_net",
        **kwargs,
    ):
        if network is None:
            network = keras.Model(image_input, feature_output, name="network")
        super().__init__(network, radius, name=name, **kwargs)

    @property
    def affinity(self) -> keras.Model:
        """Model of the same weights, images -> affinities of neighbors."""
        sparse = SparseAffinity(self.radius, name="affinity")(self.network.output)
        return keras.Model(self.network.input, sparse, name="affinity")

    def pair_terms(self, y_pred: Any, labels: Any) -> tuple[tuple, Any]:
        """A quarter of the background's and the foreground's loss each, and half of the differing pairs'."""
        pairs = pair_labels(labels, pair_offsets(self.radius))
        loss = affinity_loss(feature_affinity(y_pred, self.radius), pairs)
        loss = AffinityLoss(*(term * pair_fraction(kind) for term, kind in zip(loss, pairs)))
        return loss, loss.total


def affinity_feature(
    low: Any,
    middle: Any,
    high: Any,
    *,
    channels: tuple[int, int, int] = (64, 128, 256),
    names: tuple[str, str, str, str] | None = None,
) -> Any:
    """AffinityNet's feature of three stages of a backbone.

    Source: Ahn & Kwak, CVPR 2018, section 3.2, and the released code.

    Args:
        low: Keras tensor (batch, h', w', channels).
        middle: Keras tensor.
        high: Keras tensor (batch, h, w, channels), whose size the feature has.
        channels: channels that each stage is embedded into; the feature has their sum.
        names: names of the four convolutions.

    Returns:
        Keras tensor (batch, h, w, sum of `channels`).
    """
    names = names or ("affinity_low", "affinity_middle", "affinity_high", "affinity_embedding")
    parts = []
    for stage, width, name in zip((low, middle, high), channels, names):
        part = layers.Conv2D(
            width, 1, use_bias=False, activation="elu", kernel_initializer="he_normal", name=name
        )(stage)
        parts.append(part if stage is high else ResizeLike(name=f"{name}_resize")([part, high]))
    xavier_of_gain_4 = keras.initializers.VarianceScaling(16.0, mode="fan_avg", distribution="uniform")
    return layers.Conv2D(
        sum(channels), 1, use_bias=False, activation="elu", kernel_initializer=xavier_of_gain_4, name=names[3]
    )(layers.Concatenate(name="affinity_parts")(parts))


@keras.saving.register_keras_serializable(package="wsss")
class SparseAffinity(layers.Layer):
    """Features -> affinity of each position and its neighbors, 0 beyond the border.

    Args:
        radius: int >= 2, positions.
    """

    def __init__(self, radius: int = 5, **kwargs):
        super().__init__(**kwargs)
        self.radius = int(radius)

    def call(self, feature):
        return feature_affinity(feature, self.radius, all_pairs=True)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:3], len(pair_offsets(self.radius)))

    def get_config(self):
        return {**super().get_config(), "radius": self.radius}
