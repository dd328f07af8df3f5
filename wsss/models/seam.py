"""SEAM: class activation maps that agree between two views of an image."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from wsss.backbones.base import Backbone
from wsss.layers.correlation import PixelCorrelation
from wsss.layers.heads import StopGradient
from wsss.models.cam_classifier import CamClassifier
from wsss.models.views import AffineView, RescaledView, affine_view, rescaled_view
from wsss.ops.affine import Affine
from wsss.ops.losses import View, equivariant_regularization, min_pooling_loss
from wsss.ops.resize import resize_bilinear

VIEWS = ("affine", "rescale")
DEFAULT_VIEW = RescaledView(0.5)  # of `from_backbone`
# Moderate transforms, which leave most of the image in view.
AFFINE_DOMAINS: dict[str, Any] = {
    "vertical_flip": False,
    "rotate_domain": (-math.pi / 9, math.pi / 9),
    "rescale_scale_domain": (0.7, 1.3),
    "translation_x_domain": (-0.033, 0.033),
    "translation_y_domain": (-0.033, 0.033),
}


@keras.saving.register_keras_serializable(package="wsss")
class SEAM(CamClassifier):
    """Self-supervised equivariant attention: a classifier whose class activation maps find whole objects.

    Source: Wang et al., "Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic
    Segmentation", CVPR 2020. Trains as every `CamClassifier`, with the classification loss on both views and
    three more terms: `er_loss` (maps of both views agree), `ecr_loss` (refined maps agree with the other
    view's plain maps) and `min_pooling_loss` (some part of every image is background). Each is a metric of
    `fit`; `evaluate` sees one view, and so the classification loss alone.

    Args:
        image_input: `keras.Input` (batch, height, width, channels).
        feature_output: Keras tensor, the features (batch, h, w, channels) of a CNN on `image_input`.
        classes: number of classes, without background.
        correlation_feature: Keras tensor (batch, h', w', channels) by which pixels are compared. Gradients
            flow into it; stop them where the backbone should not learn from it. None: a new convolution
            of the stopped features.
        classification_activation: see `CamClassifier`.
        fill_mode: how affine views are filled beyond the image: "constant", "nearest", "reflect" or "wrap".
        ER_reg_coef, ECR_reg_coef, min_pooling_coef: >= 0, weights of the terms.
        epsilon: > 0, against division by zero.
        use_inverse_affine: compare maps of affine views in both views' frames.
        min_pooling_rate: in [0, 1], fraction of the pixels, the lowest, in the min-pooling loss; 0: no such
            loss.
        ECR_pooling_rate: in (0, 1], fraction of the elements, the largest, in the ECR loss.
        affine_rotate, affine_rescale, affine_flip, affine_translation: >= 0, relative frequencies of the
            transforms of `view="affine"`.
        view: "affine" (a random transform an image, maps compared at the features' size) or "rescale" (as
            the authors train: the image in another size, maps compared at the size of the images).
        view_scale: relative size of the rescaled view.
        view_size: `(height, width)` in pixels of the rescaled view, in place of `view_scale`.
        dropout, cam_background: see `CamClassifier`.
        max_correlation_positions: cells on which pixels are compared; larger features are compared on a
            coarser grid of that many. The default covers 448 x 448 at stride 8 and photographs of
            500 x 375 at twice their size.
        seed: of the random views.
        extra_heads, network: see `CamClassifier`.

    Attributes:
        cam, refined_cam: Keras models, images -> float (batch, h, w, classes), raw, at the features' size.
        classifier: Keras model, images -> class scores (batch, classes).
        network: the functional model with all outputs, on the same weights.

    Example:
        >>> import numpy as np
        >>> from wsss.backbones.tiny import small_backbone
        >>> from wsss.models import RescaledView
        >>> model = SEAM.from_backbone(small_backbone(width=8), classes=3, view=RescaledView(0.5))
        >>> model.compile("adam", "binary_crossentropy")
        >>> images, labels = np.zeros((2, 32, 48, 3), "float32"), np.eye(2, 3)
        >>> history = model.fit(images, labels, verbose=0)
        >>> sorted(history.history)
        ['classification_loss', 'ecr_loss', 'er_loss', 'loss', 'min_pooling_loss']
        >>> model.refined_cam.predict(images, verbose=0).shape
        (2, 4, 6, 3)
    """

    def __init__(
        self,
        image_input: Any = None,
        feature_output: Any = None,
        classes: int | None = None,
        correlation_feature: Any = None,
        classification_activation: str = "sigmoid",
        fill_mode: str = "constant",
        ER_reg_coef: float = 1.0,
        ECR_reg_coef: float = 1.0,
        epsilon: float = 1e-5,
        use_inverse_affine: bool = True,
        min_pooling_rate: float = 0.25,
        ECR_pooling_rate: float = 0.2,
        name: str = "seam",
        affine_rotate: float = 0.0,
        affine_rescale: float = 0.5,
        affine_flip: float = 0.5,
        affine_translation: float = 0.0,
        *,
        view: str = "affine",
        view_scale: float = 0.3,
        view_size: tuple[int, int] | None = None,
        min_pooling_coef: float = 1.0,
        max_correlation_positions: int = 12288,
        seed: int | None = None,
        extra_heads: Callable | None = None,
        **kwargs,
    ):
        _check_options(view, view_scale, min_pooling_rate, ECR_pooling_rate)

        def heads(cam, feature):
            compared = (
                _default_embedding(feature_output) if correlation_feature is None else correlation_feature
            )
            correlation = PixelCorrelation(epsilon, max_correlation_positions, name="pixel_correlation")
            extra = extra_heads(cam, feature) if extra_heads else {}
            return {"refined_cam": correlation([cam, compared]), **extra}

        super().__init__(
            image_input,
            feature_output,
            classes,
            classification_activation,
            name,
            upsample_scores=view == "rescale",
            extra_heads=heads,
            **kwargs,
        )
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
        self.view_size = (int(view_size[0]), int(view_size[1])) if view_size else None
        self.max_correlation_positions = int(max_correlation_positions)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.affine = Affine(
            [affine_rotate, 0.0, affine_rescale, affine_flip, affine_translation],
            fill_mode,
            seed=self.seed_generator,
            **AFFINE_DOMAINS,
        )

    @classmethod
    def from_backbone(
        cls,
        backbone: Backbone,
        classes: int,
        *,
        view: RescaledView | AffineView = DEFAULT_VIEW,
        standardize_correlation: bool = False,
        **options,
    ) -> SEAM:
        """The model on a backbone's features, which compares pixels by color and the stages before the last.

        Args:
            backbone: `Backbone`.
            classes: number of classes, without background.
            view: the second view of each image.
            standardize_correlation: see `Backbone.correlation_feature`.
            **options: of the constructor.
        """
        correlation_feature = backbone.correlation_feature(standardize=standardize_correlation)
        return cls(
            backbone.input,
            backbone.feature,
            classes,
            correlation_feature=correlation_feature,
            **view.options(),
            **options,
        )

    @property
    def loss_terms(self) -> tuple[str, ...]:
        return (*super().loss_terms, "er_loss", "ecr_loss", "min_pooling_loss")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Classification loss of `compile`, and while training the terms that compare two views."""
        if not isinstance(y_pred, dict):  # evaluation: the scores of one view
            return super().compute_loss(x, y, y_pred, sample_weight, training=training)
        x = ops.convert_to_tensor(x)
        view = self._second_view(x)
        other = self.run_network(view.images, training=True)
        # Both views in one batch: the mean over it is the mean of the two views' losses.
        both = {name: ops.concatenate([y_pred[name], other[name]], axis=0) for name in ("scores", "logits")}
        labels = ops.concatenate([y, y], axis=0)
        weights = None if sample_weight is None else ops.concatenate([sample_weight] * 2, axis=0)
        loss = self.classification_loss(x, labels, both, weights)
        for term, coefficient, value in self._terms(x, y, y_pred, other, view, sample_weight):
            value = coefficient * value
            self._record(term, value, x)
            loss = loss + self._aggregate_additional_loss(value)
        return loss

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

    @functools.cached_property
    def refined_cam(self) -> keras.Model:
        """Keras model, images -> refined maps (batch, h, w, classes)."""
        refined = self.network.output["refined_cam"][..., 1:]
        return keras.Model(self.network.input, refined, name="refined_cam")

    def get_config(self) -> dict:
        config = super().get_config()
        del config["upsample_scores"]  # follows the view
        own = {
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
            "max_correlation_positions": self.max_correlation_positions,
            "seed": self.seed,
        }
        return {**config, **own}


def _default_embedding(feature):
    """A new convolution of features that do not learn from it."""
    return layers.Conv2D(192, 1, use_bias=False, name="correlation_embedding")(StopGradient()(feature))


def _visible(maps, transform):
    """The maps, 0 where the transform of the other view's maps has nothing to compare with."""
    inside = transform(ops.ones_like(maps.cam[..., :1]))
    return View(maps.cam * inside, maps.refined_cam * inside)


def _mean(values, sample_weight):
    """Mean over the images of `(batch,)` values, weighted as Keras weights losses."""
    if sample_weight is not None:
        values = values * ops.reshape(ops.cast(sample_weight, values.dtype), (-1,))
    return ops.mean(values)


def _check_options(view, view_scale, min_pooling_rate, ECR_pooling_rate):
    if view not in VIEWS:
        raise ValueError(f"`view` must be one of {VIEWS}. Received: {view!r}.")
    if view_scale <= 0:
        raise ValueError(f"`view_scale` must be positive. Received: {view_scale}.")
    if not 0 <= min_pooling_rate <= 1:
        raise ValueError(f"`min_pooling_rate` must lie in [0, 1]. Received: {min_pooling_rate}.")
    if not 0 < ECR_pooling_rate <= 1:
        raise ValueError(f"`ECR_pooling_rate` must lie in (0, 1]. Received: {ECR_pooling_rate}.")
