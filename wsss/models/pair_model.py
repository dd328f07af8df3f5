"""Base of AffinityNet and IRN: training from pairs of pixels, with their targets and loss terms."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from wsss.models.network_model import NetworkModel
from wsss.models.replicas import mean_over_replicas
from wsss.ops.affinity import EPSILON, pair_offsets


class PairModel(NetworkModel):
    """Learns from label maps which pairs of nearby pixels share a class.

    Trains by `compile(optimizer)`, without a loss, and `fit` on images and label maps: int (batch, height,
    width), 0 background, 255 ignore, at the size of the images or of the network's output.

    A subclass names its loss terms in `LOSS_TERMS` and computes them in `pair_terms`.

    Args:
        network: functional model, images -> features or boundaries from which `pair_terms` scores pairs.
        radius: int >= 2, positions; pairs nearer than this are learned.
    """

    LOSS_TERMS: tuple[str, ...] = ()

    def __init__(self, network: keras.Model, radius: int, *, name: str, **kwargs):
        super().__init__(name=name, **kwargs)
        pair_offsets(radius)  # raises for a radius without pairs
        self.network = network
        self.radius = int(radius)
        self._term_metrics = {term: keras.metrics.Mean(name=term) for term in self.LOSS_TERMS}
        self.built = True

    def call(self, x, training=None):
        """Outputs of the network."""
        return self.run_network(x, training)

    def pair_terms(self, y_pred: Any, labels: Any) -> tuple[tuple, Any]:
        """The loss terms, in the order of `LOSS_TERMS`, and their weighted sum.

        Args:
            y_pred: outputs of the network, (batch, h, w, channels) or a dictionary of these.
            labels: int32 (batch, h, w).
        """
        raise NotImplementedError

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The weighted sum of the loss terms, of the batch of all replicas.

        Raises:
            ValueError: sample weights are given, or the output is too small to hold a pair.
        """
        if sample_weight is not None:
            raise ValueError(
                f"`{type(self).__name__}` takes no `sample_weight`: set pixels that do not count to 255."
            )
        height, width = ops.shape(keras.tree.flatten(y_pred)[0])[1:3]
        least = least_feature_width(self.radius)
        if isinstance(width, int) and width < least:
            raise ValueError(
                f"Features must be at least {least} positions wide, or no pixel has all "
                f"its neighbors within radius {self.radius}. Received: {width}; train on larger images."
            )
        terms, total = self.pair_terms(y_pred, sample_labels(y, (height, width)))
        for metric, value in zip(self._term_metrics.values(), terms, strict=True):
            metric.update_state(value)
        total = self._aggregate_additional_loss(total)
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


def least_feature_width(radius: int) -> int:
    """The fewest positions a side on which there is a pair to learn from."""
    return 2 * radius - 1


def pair_fraction(mask: Any) -> Any:
    """Number of pairs on this replica relative to the mean over replicas, 1 with a single replica."""
    count = ops.sum(mask) + EPSILON
    return count / mean_over_replicas(count)


def sample_labels(labels: Any, size: Sequence[int]) -> Any:
    """Label maps at another size: the label at the center of each cell.

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
            centers = ((2 * ops.arange(cells, dtype="int32") + 1) * pixels) // (2 * cells)
            labels = ops.take(labels, centers, axis=axis)
    return labels
