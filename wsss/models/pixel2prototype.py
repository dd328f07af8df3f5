"""Pixel-to-Prototype Contrast: SEAM whose features also gather around one prototype a class."""

from typing import Any

import keras
from keras import layers, ops

from wsss.models.replicas import gather_batch
from wsss.models.seam import SEAM
from wsss.ops.contrast import ContrastView, pixel_prototype_contrast
from wsss.ops.resize import resize_bilinear

VARIANTS = ("published", "repaired")


@keras.saving.register_keras_serializable(package="wsss")
class Pixel2Prototype(SEAM):
    """SEAM with contrast between pixels and class prototypes, across two views and within each.

    Source: Du et al., "Weakly Supervised Semantic Segmentation by Pixel-to-Prototype Contrast", CVPR 2022.
    All terms of `SEAM` stay; three join them, computed on a small grid with pseudo labels from the refined
    maps: `cross_prototype_loss` (pixels of a view against the prototypes of the other), `cross_cam_loss`
    (against their own prototypes, by the other view's pseudo labels) and `intra_view_loss` (hard pixels and
    semi-hard prototypes of one view). They compare pixels of the whole batch, over all replicas; sample
    weights scale them by their mean.

    Args:
        image_input, feature_output, classes: see `SEAM`.
        project_feature: Keras tensor (batch, h', w', channels), the features that are compared. None: a new
            convolution with 128 channels and ReLU.
        correlation_feature: see `SEAM`.
        prototype_confidence_rate: in (0, 1], fraction of the pixels of one image that make a prototype: the
            highest scoring of the batch, as many whatever its size.
        nce_tau: > 0, temperature of all terms.
        cp_contrast_coef, cc_contrast_coef, intra_contrast_coef: >= 0, weights of the terms: cross prototype,
            cross CAM, intra view.
        background_threshold: in [0, 1], score of the background in the pseudo labels.
        hard_prototype_range: `(first, end)` in [0, 1]: prototypes ranked by similarity to the pixel; those in
            this range of the ranks are its negatives within a view. The default is ranks 4 to 13 of 21.
        hard_pixel_range: `(first, end)` in [0, 1]: the pixels of a class ranked from the least similar to
            their prototype; those in this range count as hard, and as large a fraction is sampled
            at random.
        contrast_grid: `(height, width)` of the grid.
        contrast_variant: "published", or "repaired": the background's prototype comes from the pixels with
            the least foreground in place of the first pixels of the batch, and absent classes have none.
        **kwargs: the other options of `SEAM`.

    Example:
        >>> import numpy as np
        >>> from wsss.backbones.tiny import small_backbone
        >>> from wsss.models import RescaledView
        >>> view = RescaledView(size=(16, 24))
        >>> model = Pixel2Prototype.from_backbone(small_backbone(width=8), classes=3, view=view)
        >>> model.compile("adam", "binary_crossentropy")
        >>> images, labels = np.ones((2, 32, 48, 3), "float32"), np.eye(2, 3)
        >>> history = model.fit(images, labels, verbose=0)
        >>> model.loss_terms[-3:]
        ('cross_prototype_loss', 'cross_cam_loss', 'intra_view_loss')
    """

    def __init__(
        self,
        image_input: Any = None,
        feature_output: Any = None,
        classes: int | None = None,
        project_feature: Any = None,
        correlation_feature: Any = None,
        name: str = "p2p",
        *,
        prototype_confidence_rate: float = 0.125,
        nce_tau: float = 0.1,
        cp_contrast_coef: float = 0.1,
        cc_contrast_coef: float = 0.1,
        intra_contrast_coef: float = 0.1,
        background_threshold: float = 0.2,
        hard_prototype_range: tuple[float, float] = (0.15, 0.62),
        hard_pixel_range: tuple[float, float] = (0.1, 0.6),
        contrast_grid: tuple[int, int] = (16, 16),
        contrast_variant: str = "published",
        **kwargs,
    ):
        _check_options(
            prototype_confidence_rate, nce_tau, background_threshold, hard_prototype_range, hard_pixel_range
        )
        if contrast_variant not in VARIANTS:
            raise ValueError(f"`contrast_variant` must be one of {VARIANTS}. Received: {contrast_variant!r}.")
        super().__init__(
            image_input,
            feature_output,
            classes,
            correlation_feature,
            name=name,
            extra_heads=lambda cam, feature: {"projection": _projection(feature, project_feature)},
            **kwargs,
        )
        self.prototype_confidence_rate = float(prototype_confidence_rate)
        self.nce_tau = float(nce_tau)
        self.cp_contrast_coef = float(cp_contrast_coef)
        self.cc_contrast_coef = float(cc_contrast_coef)
        self.intra_contrast_coef = float(intra_contrast_coef)
        self.background_threshold = float(background_threshold)
        self.hard_prototype_range = tuple(float(bound) for bound in hard_prototype_range)
        self.hard_pixel_range = (float(hard_pixel_range[0]), float(hard_pixel_range[1]))
        self.contrast_grid = (int(contrast_grid[0]), int(contrast_grid[1]))
        self.contrast_variant = contrast_variant

    @property
    def loss_terms(self) -> tuple[str, ...]:
        return (*super().loss_terms, "cross_prototype_loss", "cross_cam_loss", "intra_view_loss")

    def _terms(self, x, y, first, other, view, sample_weight):
        yield from super()._terms(x, y, first, other, view, sample_weight)
        # Rescaled views are brought to the same pixels by the grid.
        to_second = view.to_second if self.view == "affine" else None
        contrast = self._contrast(y, self._gathered(first, to_second), self._gathered(other))
        if view.to_first is not None:
            inverse = self._contrast(y, self._gathered(first), self._gathered(other, view.to_first))
            contrast = [(one + two) / 2 for one, two in zip(contrast, inverse)]
        weight = 1.0 if sample_weight is None else ops.mean(ops.cast(sample_weight, "float32"))
        coefficients = (self.cp_contrast_coef, self.cc_contrast_coef, self.intra_contrast_coef)
        for term, coefficient, value in zip(self.loss_terms[-3:], coefficients, contrast):
            yield term, coefficient, weight * value

    def _gathered(self, outputs, transform=None):
        """Inputs of the contrast from one view, on the other's pixels and on the grid, of all replicas."""
        maps = (
            ops.cast(each, "float32") for each in (outputs["projection"], outputs["refined_cam"][..., 1:])
        )
        if transform is not None:
            maps = (transform(each) for each in maps)
        on_grid = (resize_bilinear(each, self.contrast_grid, align_corners=True) for each in maps)
        return ContrastView(*(gather_batch(each) for each in on_grid))

    def _contrast(self, y, first, other):
        height, width = self.contrast_grid
        prototypes = self.classes + 1
        start, end = (int(bound * prototypes) for bound in self.hard_prototype_range)
        return pixel_prototype_contrast(
            first,
            other,
            gather_batch(ops.cast(y, "float32")),
            sampled=self.sampled_pixels(),
            seed=self.seed_generator,
            grid=self.contrast_grid,
            background_threshold=self.background_threshold,
            pixels_per_prototype=max(int(self.prototype_confidence_rate * height * width), 1),
            temperature=self.nce_tau,
            negative_ranks=(start, max(end, start + 1)),
            hard_pixel_range=self.hard_pixel_range,
            repaired=self.contrast_variant == "repaired",
        )

    def sampled_pixels(self) -> tuple[Any, Any]:
        """The pixels of both views in the random part of the intra-view term; None samples them anew."""
        return None, None

    def get_config(self) -> dict:
        own = {
            "prototype_confidence_rate": self.prototype_confidence_rate,
            "nce_tau": self.nce_tau,
            "cp_contrast_coef": self.cp_contrast_coef,
            "cc_contrast_coef": self.cc_contrast_coef,
            "intra_contrast_coef": self.intra_contrast_coef,
            "background_threshold": self.background_threshold,
            "hard_prototype_range": self.hard_prototype_range,
            "hard_pixel_range": self.hard_pixel_range,
            "contrast_grid": self.contrast_grid,
            "contrast_variant": self.contrast_variant,
        }
        return {**super().get_config(), **own}


def _projection(feature, project_feature):
    if project_feature is not None:
        return project_feature
    return layers.Conv2D(128, 1, use_bias=False, activation="relu", name="projection")(feature)


def _check_options(rate, temperature, threshold, *ranges):
    if not 0 < rate <= 1:
        raise ValueError(f"`prototype_confidence_rate` must lie in (0, 1]. Received: {rate}.")
    if temperature <= 0:
        raise ValueError(f"`nce_tau` must be positive. Received: {temperature}.")
    if not 0 <= threshold <= 1:
        raise ValueError(f"`background_threshold` must lie in [0, 1]. Received: {threshold}.")
    for name, (first, end) in zip(("hard_prototype_range", "hard_pixel_range"), ranges, strict=True):
        if not 0 <= first < end <= 1:
            raise ValueError(
                f"`{name}` must be (first, end) with 0 <= first < end <= 1. Received: {first, end}."
            )
