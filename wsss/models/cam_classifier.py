"""The image classifier that gives class activation maps: the baseline, and the base of SEAM."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers, ops

from wsss.backbones.base import Backbone
from wsss.layers.heads import ImageScores
from wsss.models.network_model import NetworkModel

# Activation of the class scores -> the loss of `compile` that has a form on logits.
_LOSS_OF_ACTIVATION = {
    "sigmoid": (keras.losses.BinaryCrossentropy, keras.losses.binary_crossentropy),
    "softmax": (keras.losses.CategoricalCrossentropy, keras.losses.categorical_crossentropy),
}
# In files of version 0.1.0 the configuration also holds SEAM's options.
_OWN_CONFIG = (
    *("name", "trainable", "dtype", "classes", "classification_activation", "dropout", "cam_background"),
    *("upsample_scores", "score_offset", "model"),
)


@keras.saving.register_keras_serializable(package="wsss", name="Classifier")
class CamClassifier(NetworkModel):
    """Classifier of images whose class scores are the means of its class activation maps (CAMs).

    Source: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016. Trains by
    `compile` and `fit` on images and image labels `(batch, classes)`. Binary cross-entropy over a sigmoid and
    categorical cross-entropy over a softmax are computed from the logits while training, so that a saturated
    score still has a gradient; any other loss sees the scores.

    Args:
        image_input: `keras.Input` (batch, height, width, channels).
        feature_output: Keras tensor, the features (batch, h, w, channels) of a CNN on `image_input`.
        classes: number of classes, without background.
        classification_activation: activation of the class scores; "softmax" of one class is "sigmoid". For
            logits "linear", with `from_logits=True` in the loss.
        dropout: in [0, 1), fraction of the feature channels dropped before the new layers while training.
        cam_background: give the last convolution an extra channel 0 that nothing reads, as in the
            authors' checkpoints.
        upsample_scores: average the maps as resized to the image, see `ImageScores`.
        score_offset: constants `(classes,)` added to the logits of the class scores, not to the maps: with
            the log-odds of the tags' frequencies, maps need not learn how rare a class is.
        extra_heads: function `(cam, features) -> {name: Keras tensor}` of a subclass's further outputs.
        network: the complete functional model in place of the first two arguments; used by loading.

    Attributes:
        cam: Keras model, images -> float (batch, h, w, classes), raw, at the features' size.
        classifier: Keras model, images -> class scores (batch, classes).
        network: the functional model with all outputs, on the same weights.

    Raises:
        ValueError: `classes` is not positive, or there are several inputs.

    Example:
        >>> import numpy as np
        >>> from wsss.backbones.tiny import small_backbone
        >>> model = CamClassifier.from_backbone(small_backbone(width=8), classes=3)
        >>> model.compile("adam", "binary_crossentropy")
        >>> images, labels = np.zeros((2, 32, 48, 3), "float32"), np.eye(2, 3)
        >>> history = model.fit(images, labels, verbose=0)
        >>> model.predict(images, verbose=0).shape
        (2, 3)
        >>> model.cam.predict(images, verbose=0).shape
        (2, 4, 6, 3)
    """

    def __init__(
        self,
        image_input: Any = None,
        feature_output: Any = None,
        classes: int | None = None,
        classification_activation: str = "sigmoid",
        name: str = "cam_classifier",
        *,
        dropout: float = 0.0,
        cam_background: bool = False,
        upsample_scores: bool = False,
        score_offset: Sequence[float] | None = None,
        extra_heads: Callable | None = None,
        network: keras.Model | None = None,
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if classes is None or classes < 1:
            raise ValueError(f"`classes` must be positive. Received: {classes}.")
        self.classes = int(classes)
        self.classification_activation = classification_activation
        self.dropout, self.cam_background = float(dropout), bool(cam_background)
        self.upsample_scores = bool(upsample_scores)
        if score_offset is not None and len(score_offset) != self.classes:
            raise ValueError(
                f"`score_offset` must hold one number a class, {self.classes}. Received: {len(score_offset)}."
            )
        # A tuple: Keras wraps lists, and configurations with wrapped ones cannot be copied.
        self.score_offset = None if score_offset is None else tuple(map(float, score_offset))
        if network is None:
            network = self._build_network(image_input, feature_output, extra_heads)
        self.network = _with_logits(network)
        self._metric_of = {term: keras.metrics.Mean(name=term) for term in self.loss_terms}
        self._loss_from_logits, self._loss_weight = None, 1.0
        self.built = True

    @classmethod
    def from_backbone(cls, backbone: Backbone, classes: int, **options) -> CamClassifier:
        """Builds the model on the features of a backbone.

        Args:
            backbone: `Backbone`.
            classes: number of classes, without background.
            **options: of the constructor.
        """
        return cls(backbone.input, backbone.feature, classes, **options)

    @property
    def loss_terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss, which are the names of their metrics."""
        return ("classification_loss",)

    def _build_network(self, image, feature, extra_heads):
        image, *others = keras.tree.flatten(image)
        if others:
            raise ValueError(f"`image_input` must be one Keras input. Received: {len(others) + 1}.")
        if self.dropout:
            feature = layers.SpatialDropout2D(self.dropout, name="head_dropout")(feature)
        channels = self.classes + self.cam_background
        cam = layers.Conv2D(channels, 1, use_bias=False, name="cam_head")(feature)
        if self.cam_background:
            cam = cam[..., 1:]
        extra = extra_heads(cam, feature) if extra_heads else {}
        image_scores = ImageScores(self.upsample_scores, self.score_offset, dtype="float32", name="logits")
        logits = image_scores([cam, image])
        scores = layers.Activation(self._score_activation, dtype="float32", name="scores")(logits)
        return keras.Model(image, {"cam": cam, "logits": logits, "scores": scores, **extra}, name="network")

    @property
    def _score_activation(self):
        one_class = self.classes == 1 and self.classification_activation == "softmax"
        return "sigmoid" if one_class else self.classification_activation  # a softmax of one class is 1

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, *args, **kwargs):
        """As `keras.Model.compile`; `loss` is the classification loss, of the scores."""
        super().compile(optimizer, loss, loss_weights, *args, **kwargs)
        self._loss_from_logits = loss_from_logits(loss, self._score_activation)
        self._loss_weight = 1.0 if loss_weights is None else float(keras.tree.flatten(loss_weights)[0])

    def compile_from_config(self, config):
        """Compiles as saved; Keras's own does not where `compile` is overridden."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def call(self, x, training=None):
        """Class scores; while training all outputs of the network, which the terms of the loss need."""
        outputs = self.run_network(x, training)
        return outputs if training else outputs["scores"]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The classification loss of `compile`."""
        return self.classification_loss(x, y, y_pred, sample_weight)

    def classification_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss of `compile`, from the logits where it has a form on these, and its metric.

        Args:
            x: images, whose number weighs the metric.
            y: image labels (batch, classes).
            y_pred: outputs `scores` and `logits` while training, else the scores alone.
            sample_weight: float (batch,), or None.

        Returns:
            float scalar, scaled for the number of replicas as Keras does, with the losses of layers.
        """
        if not isinstance(y_pred, dict):
            loss = super().compute_loss(x, y, y_pred, sample_weight)
        elif self._loss_from_logits is None:
            loss = super().compute_loss(x, y, y_pred["scores"], sample_weight)
        else:
            loss = self._loss_weight * self._loss_from_logits(y, y_pred["logits"], sample_weight)
            for extra in self.losses:
                loss = loss + self._aggregate_additional_loss(extra)
        self._record("classification_loss", loss / self._replica_fraction(), x)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Metrics of the class scores; those of terms that only training computes are left out elsewhere."""
        if isinstance(y_pred, dict):
            return super().compute_metrics(x, y, y_pred["scores"], sample_weight)
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        return {name: value for name, value in logs.items() if name not in self.loss_terms[1:]}

    def _replica_fraction(self):
        """Factor of one replica's loss, by which the losses of all replicas sum to that of the batch."""
        return self._aggregate_additional_loss(ops.ones(()))

    def _record(self, term, value, x):
        self._metric_of[term].update_state(value, sample_weight=ops.shape(x)[0])

    @functools.cached_property
    def cam(self) -> keras.Model:
        """Keras model, images -> plain maps (batch, h, w, classes)."""
        return keras.Model(self.network.input, self.network.output["cam"], name="cam")

    @functools.cached_property
    def classifier(self) -> keras.Model:
        """Keras model, images -> class scores (batch, classes)."""
        return keras.Model(self.network.input, self.network.output["scores"], name="classifier")

    def get_config(self) -> dict:
        """Every option, and the whole network under "model"; JSON serializable."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": self.dtype_policy.name,
            "classes": self.classes,
            "classification_activation": self.classification_activation,
            "dropout": self.dropout,
            "cam_background": self.cam_background,
            "upsample_scores": self.upsample_scores,
            "score_offset": None if self.score_offset is None else list(self.score_offset),
            "model": keras.saving.serialize_keras_object(self.network),
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects=None):
        """The model of `get_config`, with new weights; `config` is left as it is."""
        config = copy.deepcopy(config)
        if cls is CamClassifier:
            config.setdefault("upsample_scores", config.get("view") == "rescale")
            config = {name: config[name] for name in _OWN_CONFIG if name in config}
        network = keras.saving.deserialize_keras_object(config.pop("model"), custom_objects=custom_objects)
        return cls(network=network, **config)

    def save(self, filepath: str | os.PathLike, overwrite: bool = True, **kwargs) -> None:
        """Saves everything to `.keras`, or the network alone to a legacy `.h5` file.

        Args:
            filepath: path that ends in ".keras", ".h5" or ".hdf5". For the last two keep `get_config()` as
                well; `load` takes both.
            overwrite: whether an existing file may be replaced.
            **kwargs: as of `keras.Model.save`.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            self.network.save(filepath, overwrite=overwrite, **kwargs)
        else:
            super().save(filepath, overwrite=overwrite, **kwargs)

    @classmethod
    def load(cls, filepath: str | os.PathLike, **config) -> CamClassifier:
        """Loads a model that was saved.

        Args:
            filepath: path of a `.keras` file, or of a `.h5` file that `save` wrote.
            **config: what `get_config` returned, for a `.h5` file.

        Returns:
            A model of this class.

        Raises:
            ValueError: a `.h5` file without its config, or another kind of model.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            if "model" not in config:
                raise ValueError(
                    f"A .h5 file holds weights only; pass what get_config() returned: "
                    f"{cls.__name__}.load({str(filepath)!r}, **config)."
                )
            model = cls.from_config(config)
            model.network.load_weights(filepath)
            return model
        model = keras.saving.load_model(filepath)
        if not isinstance(model, cls):
            raise ValueError(f"{filepath} holds a {type(model).__name__}, not a {cls.__name__}.")
        return model


def loss_from_logits(loss: Any, activation: str) -> keras.losses.Loss | None:
    """The loss of `compile` as a loss of the logits below an activation.

    A score that is clipped to keep its logarithm finite has no gradient once it saturates; its logit has.

    Args:
        loss: what `compile` takes as `loss`, for one output.
        activation: name of the activation of the scores.

    Returns:
        The same loss with `from_logits=True`: binary cross-entropy over "sigmoid", or categorical
        cross-entropy over "softmax". None: another loss or activation.
    """
    if activation not in _LOSS_OF_ACTIVATION or len(keras.tree.flatten(loss)) != 1:
        return None
    loss_class, function = _LOSS_OF_ACTIVATION[activation]
    (loss,) = keras.tree.flatten(loss)
    loss = keras.losses.get(loss)
    if loss is function:
        return loss_class(from_logits=True)
    if type(loss) is not loss_class or loss.get_config()["from_logits"]:
        return None
    return loss_class(**{**loss.get_config(), "from_logits": True})


def _with_logits(network):
    """The network with its logits among the outputs, which it lacks in files of version 0.1.0."""
    if "logits" in network.output:
        return network
    logits = network.get_layer("logits").output
    return keras.Model(network.input, {**network.output, "logits": logits}, name=network.name)
