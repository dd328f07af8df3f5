"""Base of the models that train around a functional network."""

from collections.abc import Callable
from typing import Any

import keras


class NetworkModel(keras.Model):
    """A model whose outputs are those of `network`, a functional Keras model on the same weights.

    Attributes:
        network: the functional model; set by the subclass.
        training_network: function images -> outputs of the network, that computes these while training, or
            None for the network itself; such as `wsss.training.checkpointing.CheckpointedNetwork`. It is
            not saved.
    """

    network: keras.Model
    training_network: Callable[[Any], Any] | None = None

    def run_network(self, images: Any, training: bool | None = None) -> Any:
        """Outputs of the network.

        Args:
            images: float32 (batch, height, width, channels).
            training: whether the layers train.
        """
        if training and self.training_network is not None:
            return self.training_network(images)
        return self.network(images, training=training)
