"""AffinityNet: a feature map in which pixels of one object lie close together."""

import keras
from keras import layers, ops

from wsss.models.layers import ResizeLike
from wsss.models.replicas import mean_over_replicas
from wsss.ops.affinity import (
    EPSILON,
    AffinityLoss,
    affinity_loss,
    feature_affinity,
    pair_labels,
    pair_offsets,
)

LOSS_TERMS = ("background_loss", "foreground_loss", "negative_loss")


@keras.saving.register_keras_serializable(package="wsss")
class AffinityNet(keras.Model):
    """Learns from label maps how likely neighbouring pixels share a class.

    Source: Ahn & Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly
    Supervised Semantic Segmentation", CVPR 2018. Trains by `compile(optimizer)`, without a loss, and `fit` on
    images and label maps: int (batch, height, width), 0 background, 255 ignore, at the size of the images or
    of the features. `predict` gives the features.

    Args:
        image_input: `keras.Input` (batch, height, width, 3).
        feature_output: Keras tensor (batch, h, w, channels), the feature to compare; see `affinity_feature`.
        radius: int >= 2, positions; pairs nearer than this are learned and given.
        network: functional model from images to features, in place of the first two.

    Attributes:
        affinity: Keras model, images -> float (batch, h, w, offsets), affinity of every position and its
            neighbour at each offset of `wsss.ops.affinity.pair_offsets(radius)`, 0 beyond the border. The
            random walk takes it as it is.
        network: functional model, images -> features.
    """

    def __init__(
        self, image_input=None, feature_output=None, radius=5, *, network=None, name="affinity_net", **kwargs
    ):
        super().__init__(name=name, **kwargs)
        pair_offsets(radius)  # checks it
        if network is None:
            network = keras.Model(image_input, feature_output, name="network")
        self.network = network
        self.radius = int(radius)
        self._term_metrics = {term: keras.metrics.Mean(name=term) for term in LOSS_TERMS}
        self.built = True

    @property
    def affinity(self):
        """Model of the same weights, images -> affinities of neighbours."""
        sparse = SparseAffinity(self.radius, name="affinity")(self.network.output)
        return keras.Model(self.network.input, sparse, name="affinity")

    def call(self, x, training=None):
        """Features, float (batch, h, w, channels)."""
        return self.network(x, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """A quarter of the background's and the foreground's loss each, and half of the differing pairs'."""
        if sample_weight is not None:
            raise ValueError("`AffinityNet` takes no `sample_weight`: set pixels that do not count to 255.")
        height, width = ops.shape(y_pred)[1:3]
        if isinstance(width, int) and width < smallest_side(self.radius):
            raise ValueError(
                f"Features must be at least {smallest_side(self.radius)} positions wide, or no pixel has all "
                f"its neighbours within radius {self.radius}. Received: {width}; train on larger images."
            )
        labels = sample_labels(y, (height, width))
        pairs = pair_labels(labels, pair_offsets(self.radius))
        loss = affinity_loss(feature_affinity(y_pred, self.radius), pairs)
        loss = AffinityLoss(*(term * _share_of_pairs(kind) for term, kind in zip(loss, pairs)))
        for metric, value in zip(self._term_metrics.values(), loss):
            metric.update_state(value)
        total = self._aggregate_additional_loss(loss.total)
        for extra in self.losses:
            total = total + self._aggregate_additional_loss(extra)
        return total

    @property
    def metrics(self):
        return [*super().metrics, *self._term_metrics.values()]

    def get_config(self):
        return {
            **super().get_config(),
            "name": self.name,
            "radius": self.radius,
            "network": keras.saving.serialize_keras_object(self.network),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects=custom_objects)
        return cls(**{**config, "network": network})


def smallest_side(radius):
    """The fewest positions a side on which there is a pair to learn from."""
    return 2 * radius - 1


def _share_of_pairs(mask):
    """Pairs of this replica, relative to the mean of all replicas: 1 where there is one replica."""
    count = ops.sum(mask) + EPSILON
    return count / mean_over_replicas(count)


def affinity_feature(low, middle, high, *, channels=(64, 128, 256), names=None):
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


def sample_labels(labels, size):
    """Label maps at another size: the label at the centre of each cell.

    Args:
        labels: int (batch, height, width) or (batch, height, width, 1).
        size: `(h, w)`.

    Returns:
        int32 (batch, h, w).
    """
    labels = ops.cast(labels[..., 0] if len(labels.shape) == 4 else labels, "int32")
    for axis, cells in enumerate(size, start=1):
        pixels = ops.shape(labels)[axis]
        if not (isinstance(pixels, int) and pixels == cells):
            centres = ((2 * ops.arange(cells, dtype="int32") + 1) * pixels) // (2 * cells)
            labels = ops.take(labels, centres, axis=axis)
    return labels


@keras.saving.register_keras_serializable(package="wsss")
class SparseAffinity(layers.Layer):
    """Features -> affinity of each position and its neighbours, 0 beyond the border.

    Args:
        radius: int >= 2, positions.
    """

    def __init__(self, radius=5, **kwargs):
        super().__init__(**kwargs)
        self.radius = int(radius)

    def call(self, feature):
        return feature_affinity(feature, self.radius, all_pairs=True)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:3], len(pair_offsets(self.radius)))

    def get_config(self):
        return {**super().get_config(), "radius": self.radius}
