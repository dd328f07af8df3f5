"""SEAM: class activation maps that agree between two views of an image."""

import copy
import functools
import math

import keras
from keras import layers, ops

from wsss.layers.correlation import PixelCorrelation
from wsss.layers.heads import ImageScores, StopGradient
from wsss.models.views import affine_view, rescaled_view
from wsss.ops.affine import Affine
from wsss.ops.losses import View, equivariant_regularization, min_pooling_loss
from wsss.ops.resize import resize_bilinear

VIEWS = ("affine", "rescale")
# Moderate transforms, which leave most of the image in view.
AFFINE_DOMAINS = {
    "vertical_flip": False,
    "rotate_domain": (-math.pi / 9, math.pi / 9),
    "rescale_scale_domain": (0.7, 1.3),
    "translation_x_domain": (-0.033, 0.033),
    "translation_y_domain": (-0.033, 0.033),
}


@keras.saving.register_keras_serializable(package="wsss")
class SEAM(keras.Model):
    """Self-supervised equivariant attention: a classifier whose class activation maps find whole objects.

    Source: Wang et al., "Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic
    Segmentation", CVPR 2020. Trains by `compile` and `fit` on images and image labels `(batch, classes)`;
    the loss given to `compile` is the classification loss, on both views, and the other terms join it:
    `er_loss` (maps of both views agree), `ecr_loss` (refined maps agree with the other view's plain maps)
    and `min_pooling_loss` (some part of every image is background). Each is a metric of `fit`; `evaluate`
    sees one view, and so the classification loss alone.

    Args:
        image_input: `keras.Input` (batch, height, width, channels).
        feature_output: Keras tensor, the features (batch, h, w, channels) of a CNN on `image_input`.
        classes: number of classes, without background.
        correlation_feature: Keras tensor (batch, h', w', channels) by which pixels are compared. Gradients
            flow into it; stop them where the backbone should not learn from it. None: a new convolution
            of the stopped features.
        classification_activation: activation of the class scores; "softmax" of one class is "sigmoid". For
            logits "linear", with `from_logits=True` in the loss.
        fill_mode: how affine views are filled beyond the image: "constant", "nearest", "reflect" or "wrap".
        ER_reg_coef, ECR_reg_coef, min_pooling_coef: >= 0, weights of the terms.
        epsilon: > 0, against division by zero.
        use_inverse_affine: compare maps of affine views in both views' frames.
        min_pooling_rate: in [0, 1], share of the pixels, the lowest, in the min-pooling loss; 0: no such
            loss.
        ECR_pooling_rate: in (0, 1], share of the elements, the largest, in the ECR loss.
        affine_rotate, affine_rescale, affine_flip, affine_translation: >= 0, relative frequencies of the
            transforms of `view="affine"`.
        view: "affine" (a random transform an image, maps compared at the features' size) or "rescale" (as
            the authors train: the image in another size, maps compared at the size of the images).
        view_scale: relative size of the rescaled view.
        view_size: `(height, width)` in pixels of the rescaled view, in place of `view_scale`.
        dropout: in [0, 1), share of the feature channels dropped before the new layers while training.
        cam_background: give the last convolution an extra channel 0 that nothing reads, as in the
            authors' checkpoints.
        max_correlation_positions: cells on which pixels are compared; larger features are compared on a
            coarser grid of that many. The default covers 448 x 448 at stride 8 and photographs of
            500 x 375 at twice their size.
        seed: of the random views.
        network: the complete functional model in place of the first four arguments; used by loading.
        head_features: Keras tensors for the heads of a subclass, by name.

    Attributes:
        cam, refined_cam: Keras models, images -> float (batch, h, w, classes), raw, at the features' size.
        classifier: Keras model, images -> class scores (batch, classes).
        network: the functional model with all outputs, on the same weights.
    """

    def __init__(
        self,
        image_input=None,
        feature_output=None,
        classes=None,
        correlation_feature=None,
        classification_activation="sigmoid",
        fill_mode="constant",
        ER_reg_coef=1.0,
        ECR_reg_coef=1.0,
        epsilon=1e-5,
        use_inverse_affine=True,
        min_pooling_rate=0.25,
        ECR_pooling_rate=0.2,
        name="seam",
        affine_rotate=0.0,
        affine_rescale=0.5,
        affine_flip=0.5,
        affine_translation=0.0,
        *,
        view="affine",
        view_scale=0.3,
        view_size=None,
        min_pooling_coef=1.0,
        dropout=0.0,
        cam_background=False,
        max_correlation_positions=12288,
        seed=None,
        network=None,
        head_features=None,
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        _check_options(view, view_scale, min_pooling_rate, ECR_pooling_rate, classes)
        self.classes = int(classes)
        self.classification_activation = classification_activation
        self.fill_mode = fill_mode
        self.ER_reg_coef, self.ECR_reg_coef = float(ER_reg_coef), float(ECR_reg_coef)
        self.min_pooling_coef = float(min_pooling_coef)
        self.epsilon = float(epsilon)
        self.use_inverse_affine = bool(use_inverse_affine)
        self.min_pooling_rate, self.ECR_pooling_rate = float(min_pooling_rate), float(ECR_pooling_rate)
        self.affine_weights = {
            "affine_rotate": float(affine_rotate),
            "affine_rescale": float(affine_rescale),
            "affine_flip": float(affine_flip),
            "affine_translation": float(affine_translation),
        }
        self.view, self.view_scale = view, float(view_scale)
        self.view_size = tuple(int(side) for side in view_size) if view_size else None
        self.dropout, self.cam_background = float(dropout), bool(cam_background)
        self.max_correlation_positions = int(max_correlation_positions)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.affine = Affine(
            [affine_rotate, 0.0, affine_rescale, affine_flip, affine_translation],
            fill_mode,
            seed=self.seed_generator,
            **AFFINE_DOMAINS,
        )
        if network is None:
            network = self._build_network(
                image_input, feature_output, correlation_feature, head_features or {}
            )
        self.network = network
        self._metric_of = {term: keras.metrics.Mean(name=term) for term in self.loss_terms}
        self.built = True

    @property
    def loss_terms(self):
        """Names of the terms of the loss, which are the names of their metrics."""
        return ("classification_loss", "er_loss", "ecr_loss", "min_pooling_loss")

    def _build_network(self, image, feature, correlation_feature, head_features):
        image, *others = keras.tree.flatten(image)
        if others:
            raise ValueError(f"`image_input` must be one Keras input. Received: {len(others) + 1}.")
        if correlation_feature is None:
            embedding = layers.Conv2D(192, 1, use_bias=False, name="correlation_embedding")
            correlation_feature = embedding(StopGradient()(feature))
        if self.dropout:
            feature = layers.SpatialDropout2D(self.dropout, name="head_dropout")(feature)
        outputs = self._head(image, feature, correlation_feature, **head_features)
        return keras.Model(image, outputs, name="network")

    def _head(self, image, feature, correlation_feature):
        """The new layers on the features: maps, refined maps and scores, by the names of the outputs."""
        channels = self.classes + self.cam_background
        cam = layers.Conv2D(channels, 1, use_bias=False, name="cam_head")(feature)
        if self.cam_background:
            cam = cam[..., 1:]
        refined_cam = PixelCorrelation(
            self.epsilon, self.max_correlation_positions, name="pixel_correlation"
        )([cam, correlation_feature])
        logits = ImageScores(upsample=self.view == "rescale", dtype="float32", name="logits")([cam, image])
        activation = self.classification_activation
        if activation == "softmax" and self.classes == 1:
            activation = "sigmoid"  # a softmax over one class is always 1
        scores = layers.Activation(activation, dtype="float32", name="scores")(logits)
        return {"cam": cam, "refined_cam": refined_cam, "scores": scores}

    def call(self, x, training=None):
        """Class scores; while training all maps too, which the terms of the loss need."""
        outputs = self.network(x, training=training)
        return outputs if training else outputs["scores"]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Classification loss of `compile`, and while training the terms that compare two views."""
        if not isinstance(y_pred, dict):  # evaluation: the scores of one view
            loss = super().compute_loss(x, y, y_pred, sample_weight, training=training)
            self._record("classification_loss", loss / self._share(), y)
            return loss
        x = ops.convert_to_tensor(x)
        view = self._second_view(x)
        other = self.network(view.images, training=True)
        # Both views in one batch: the mean over it is the mean of the two views' losses.
        scores = ops.concatenate([y_pred["scores"], other["scores"]], axis=0)
        labels = ops.concatenate([y, y], axis=0)
        weights = None if sample_weight is None else ops.concatenate([sample_weight] * 2, axis=0)
        loss = super().compute_loss(x, labels, scores, weights, training=training)
        self._record("classification_loss", loss / self._share(), y)
        for term, coefficient, value in self._terms(x, y, y_pred, other, view, sample_weight):
            value = coefficient * value
            self._record(term, value, y)
            loss = loss + self._aggregate_additional_loss(value)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Metrics of the class scores; those of terms that only training computes are left out elsewhere."""
        if isinstance(y_pred, dict):
            return super().compute_metrics(x, y, y_pred["scores"], sample_weight)
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        return {name: value for name, value in logs.items() if name not in self.loss_terms[1:]}

    def _terms(self, x, y, first, other, view, sample_weight):
        """`(name, coefficient, value)` of every term beside the classification."""
        labels = ops.cast(y, "float32")
        first, other = self._maps(first, x), self._maps(other, view.images)
        regularization = functools.partial(
            equivariant_regularization, image_labels=labels, rate=self.ECR_pooling_rate, epsilon=self.epsilon
        )
        seen = other if self.view == "rescale" else _visible(other, view.to_second)
        terms = regularization(first, seen, to_other=view.to_second)
        equivariance, cross_equivariance = terms.equivariance, terms.cross_equivariance
        if view.to_first is not None:
            terms = regularization(other, _visible(first, view.to_first), to_other=view.to_first)
            equivariance = (equivariance + terms.equivariance) / 2
            cross_equivariance = (cross_equivariance + terms.cross_equivariance) / 2
        yield "er_loss", self.ER_reg_coef, _mean(equivariance, sample_weight)
        yield "ecr_loss", self.ECR_reg_coef, _mean(cross_equivariance, sample_weight)
        if self.min_pooling_rate:
            lowest = sum(
                min_pooling_loss(maps.refined_cam[..., -self.classes :], labels, self.min_pooling_rate)
                for maps in (first, other)
            )
            yield "min_pooling_loss", self.min_pooling_coef, _mean(lowest / 2, sample_weight)

    def _maps(self, outputs, images):
        """Plain and refined maps of one view at the size where they are compared."""
        cam, refined_cam = (ops.cast(outputs[name], "float32") for name in ("cam", "refined_cam"))
        if self.view == "rescale":  # as published: at the size of the images, background included
            size = ops.shape(images)[1:3]
            return View(*(resize_bilinear(maps, size, align_corners=True) for maps in (cam, refined_cam)))
        # The background is left to be 1 - foreground, which also holds beyond the transformed image.
        size = ops.shape(refined_cam)[1:3]
        return View(resize_bilinear(cam, size, align_corners=True), refined_cam[..., 1:])

    def _second_view(self, images):
        if self.view == "affine":
            return affine_view(images, self.affine, self.use_inverse_affine)
        return rescaled_view(images, self.view_scale, self.view_size)

    def _share(self):
        """What the loss of one replica is multiplied by, so that those of all replicas can be summed."""
        return self._aggregate_additional_loss(ops.ones(()))

    def _record(self, term, value, y):
        self._metric_of[term].update_state(value, sample_weight=ops.shape(y)[0])

    @functools.cached_property
    def cam(self):
        """Keras model, images -> plain maps (batch, h, w, classes)."""
        return keras.Model(self.network.input, self.network.output["cam"], name="cam")

    @functools.cached_property
    def refined_cam(self):
        """Keras model, images -> refined maps (batch, h, w, classes)."""
        refined = self.network.output["refined_cam"][..., 1:]
        return keras.Model(self.network.input, refined, name="refined_cam")

    @functools.cached_property
    def classifier(self):
        """Keras model, images -> class scores (batch, classes)."""
        return keras.Model(self.network.input, self.network.output["scores"], name="classifier")

    def get_config(self):
        """Every option, and the whole network under "model"; JSON serialisable."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": self.dtype_policy.name,
            "classes": self.classes,
            "classification_activation": self.classification_activation,
            "fill_mode": self.fill_mode,
            "ER_reg_coef": self.ER_reg_coef,
            "ECR_reg_coef": self.ECR_reg_coef,
            "epsilon": self.epsilon,
            "use_inverse_affine": self.use_inverse_affine,
            "min_pooling_rate": self.min_pooling_rate,
            "ECR_pooling_rate": self.ECR_pooling_rate,
            **self.affine_weights,
            "view": self.view,
            "view_scale": self.view_scale,
            "view_size": self.view_size,
            "min_pooling_coef": self.min_pooling_coef,
            "dropout": self.dropout,
            "cam_background": self.cam_background,
            "max_correlation_positions": self.max_correlation_positions,
            "seed": self.seed,
            "model": keras.saving.serialize_keras_object(self.network),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The model of `get_config`, with new weights; `config` is left as it is."""
        config = copy.deepcopy(config)
        network = keras.saving.deserialize_keras_object(config.pop("model"), custom_objects=custom_objects)
        return cls(network=network, **config)

    def save(self, filepath, overwrite=True, **kwargs):
        """Saves everything to `.keras`, or the network alone to a legacy `.h5` file.

        Args:
            filepath: path that ends in ".keras", ".h5" or ".hdf5". For the last two keep `get_config()` as
                well; `SEAM.load` takes both.
            overwrite: whether an existing file may be replaced.
            **kwargs: as of `keras.Model.save`.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            self.network.save(filepath, overwrite=overwrite, **kwargs)
        else:
            super().save(filepath, overwrite=overwrite, **kwargs)

    @classmethod
    def load(cls, filepath, **config):
        """The saved model.

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


def _visible(maps, transform):
    """The maps, 0 where the transform of the other view's maps has nothing to compare with."""
    inside = transform(ops.ones_like(maps.cam[..., :1]))
    return View(maps.cam * inside, maps.refined_cam * inside)


def _mean(values, sample_weight):
    """Mean over the images of `(batch,)` values, weighted as Keras weights losses."""
    if sample_weight is not None:
        values = values * ops.reshape(ops.cast(sample_weight, values.dtype), (-1,))
    return ops.mean(values)


def _check_options(view, view_scale, min_pooling_rate, ECR_pooling_rate, classes):
    if classes is None or classes < 1:
        raise ValueError(f"`classes` must be positive. Received: {classes}.")
    if view not in VIEWS:
        raise ValueError(f"`view` must be one of {VIEWS}. Received: {view!r}.")
    if view_scale <= 0:
        raise ValueError(f"`view_scale` must be positive. Received: {view_scale}.")
    if not 0 <= min_pooling_rate <= 1:
        raise ValueError(f"`min_pooling_rate` must lie in [0, 1]. Received: {min_pooling_rate}.")
    if not 0 < ECR_pooling_rate <= 1:
        raise ValueError(f"`ECR_pooling_rate` must lie in (0, 1]. Received: {ECR_pooling_rate}.")
