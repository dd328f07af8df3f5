"""Refinement, from image CAMs to masks: each PTransform is a thin shell around a pure function."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np

from wsss.common.constants import IGNORE
from wsss.common.tf_import import import_tensorflow
from wsss.data.images import decode_image
from wsss.inference.cam_scores import (
    adapted_threshold,
    background_scores,
    enlarge_cells,
    mask_from_scores,
    mean_of_cells,
    merge_scales,
    normalize_probabilities,
    normalize_scores,
    round_scores,
)
from wsss.pipeline.dead_letter import with_dead_letter
from wsss.pipeline.output import ImageScores
from wsss.pipeline.stages.read import InputImage

PUBLISHED_WALKS = {"affinity": (8.0, 64), "edge": (10.0, 256)}  # exponent of the affinities, steps
EDGE_RADIUS = 5  # in positions of the output grid, of affinities from class boundaries


class Unrefined(NamedTuple):
    """An image without any refinement, which a refined mask is compared with.

    Attributes:
        mask: uint8 `(height, width)`.
        strongest: float32 `(height, width)`, the strongest class score of each pixel.
    """

    mask: np.ndarray
    strongest: np.ndarray


class ScoredImage(NamedTuple):
    """What is known about each pixel of one image, at the image's own size.

    Attributes:
        input: the image.
        class_ids: the classes of `scores`, 0-based, ascending.
        scores: float32 `(len(class_ids), height, width)` in [0, 1].
        classifier_scores: float32 `(classes,)`.
        refined: float32 `(1 + len(class_ids), height, width)`, background first, from a segmentation network
            or a stage that refines background and classes together; None before one.
        mask: uint8 `(height, width)`, or None before there is one.
        agreement: float32 `(len(class_ids),)`, how alike the CAMs of the views are, or None where not known.
        unrefined: the same without any refinement, or None where none was asked for.
        by_model: what the model gave, which `scores` and `refined` are refined from; None where not known.
    """

    input: InputImage
    class_ids: tuple[int, ...]
    scores: np.ndarray
    classifier_scores: np.ndarray
    refined: np.ndarray | None = None
    mask: np.ndarray | None = None
    agreement: np.ndarray | None = None
    unrefined: Unrefined | None = None
    by_model: ImageScores | None = None

    @classmethod
    def of(cls, image: InputImage, by_model: ImageScores) -> "ScoredImage":
        """An image before any refinement."""
        scores, background = by_model.scores, by_model.background
        refined = None if background is None else np.concatenate([background[None], scores])
        return cls(
            image,
            by_model.class_ids,
            scores,
            by_model.classifier_scores,
            refined,
            agreement=by_model.agreement,
            by_model=by_model,
        )


@dataclass(frozen=True)
class Background:
    """The rule for the score of the background, see `cam_scores.background_scores`."""

    threshold: float | None = None
    alpha: float | None = None
    adaptation: float = 0.0  # weight of the image's own threshold

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return background_scores(scores, self.threshold_of(scores), self.alpha)

    def threshold_of(self, scores: np.ndarray) -> float | None:
        """The threshold of an image, see `cam_scores.adapted_threshold`; None with an exponent."""
        if self.threshold is None:
            return None
        return adapted_threshold(scores, self.threshold, self.adaptation)


@dataclass(frozen=True)
class RefinementSettings:
    """How image CAMs become masks.

    Attributes:
        stages: of `pamr`, `walk` and `crf`, in this order.
        background: the `Background`.
        crf_preset, crf_unary: see `RefineCRF`.
        affinity_predictor, walk_beta, walk_steps: see `RefineWalk`; the first is None without a walk.
        write: `masks`, `affinity_labels` or `irn_labels`.
    """

    stages: tuple[str, ...]
    background: Background
    crf_preset: str
    crf_unary: str
    affinity_predictor: tuple[Any, ...] | None = None
    walk_beta: float | None = None
    walk_steps: int | None = None
    write: str = "masks"


def refinement_stages(settings: RefinementSettings) -> list[beam.PTransform]:
    """The PTransforms that give `ScoredImage`s a mask, to be applied one after the other."""
    background, preset = settings.background, settings.crf_preset
    stages: list[beam.PTransform] = []
    if settings.stages and settings.write == "masks":
        stages.append(KeepUnrefined(background))
    if "pamr" in settings.stages:
        stages.append(RefinePAMR())
    if "walk" in settings.stages:
        predictor = settings.affinity_predictor or ()
        stages.append(RefineWalk(background, predictor, settings.walk_beta, settings.walk_steps))
    if "crf" in settings.stages:
        iterations = 1 if "walk" in settings.stages else None  # one after the walk, as published
        stages.append(RefineCRF(background, preset, settings.crf_unary, iterations))
    if settings.write == "affinity_labels":
        return [*stages, LabelAffinity(preset)]
    if settings.write == "irn_labels":
        return [*stages, LabelIRN(preset)]
    return [*stages, LabelPixels(background)]


class MergeScales(beam.PTransform):
    """`ImageCams` to `ScoredImage`s: CAMs of all scales summed at the size of the image and normalized.

    Probabilities of a segmentation network are averaged, and those of absent classes left out.
    """

    def expand(self, image_cams: beam.PCollection) -> beam.PCollection:
        return image_cams | with_dead_letter("refine", _merge_scales)


class KeepUnrefined(beam.PTransform):
    """Keeps, of each `ScoredImage` with a class, the mask that refined ones are compared with.

    Args:
        background: the `Background` of that mask.
    """

    def __init__(self, background: Background):
        super().__init__()
        self._background = background

    def expand(self, scored: beam.PCollection) -> beam.PCollection:
        return scored | with_dead_letter("refine", _keep_unrefined, self._background)


class LabelPixels(beam.PTransform):
    """Mask of each `ScoredImage`: the label with the highest score at each pixel."""

    def __init__(self, background: Background):
        super().__init__()
        self._background = background

    def expand(self, scored: beam.PCollection) -> beam.PCollection:
        return scored | with_dead_letter("refine", _label_pixels, self._background)


class RefineCRF(beam.PTransform):
    """Refines background and class scores of each `ScoredImage` by a dense CRF on its image.

    Args:
        background: the `Background` that joins the classes, unless a stage before has refined all together.
        preset: name of constants in `wsss.refine.crf.CRF_PRESETS`.
        unary: `probabilities` takes the scores as they are, as SEAM does with the power background; `labels`
            takes the best label of each pixel with confidence 0.7, as PPC and IRN do with a constant one.
        iterations: mean-field updates; None as in the preset.
    """

    def __init__(self, background: Background, preset: str, unary: str, iterations: int | None = None):
        super().__init__()
        self._args = (background, preset, unary, iterations)

    def expand(self, scored: beam.PCollection) -> beam.PCollection:
        return scored | with_dead_letter("refine", _refine_crf, *self._args)


class RefinePAMR(beam.PTransform):
    """Pixel-adaptive refinement (PAMR) of the class scores of each `ScoredImage`, see `wsss.ops.pamr`.

    Runs on the accelerator if the worker has one.

    Args:
        iterations: number of averagings.
    """

    def __init__(self, iterations: int = 10):
        super().__init__()
        self._iterations = iterations

    def expand(self, scored: beam.PCollection) -> beam.PCollection:
        trace = functools.partial(pamr_of_any_size, self._iterations)
        return scored | with_dead_letter("refine", _refine_pamr, self._iterations, setup=trace)


class RefineWalk(beam.PTransform):
    """Random walk of background and class scores of each `ScoredImage` by the affinities of a network.

    Scores are averaged over the cells of the network's output grid, propagated by the affinities of an
    AffinityNet or within the class boundaries of an IRNet, and interpolated back. IRN propagates the class
    scores alone; here the background's score takes part, so that it is comparable before and after.

    Source: Ahn & Kwak, CVPR 2018, section 3.3; Ahn, Cho & Kwak, CVPR 2019, section 5.2.

    Args:
        background: the `Background` that joins the classes.
        predictor: arguments of `wsss.inference.loading.cached_affinity_predictor`.
        beta: > 0, exponent of the affinities; None: as published, 8 of an AffinityNet and 10 of an IRNet.
        steps: >= 0, length of the walk; None: as published, 64 and 256.
    """

    def __init__(
        self, background: Background, predictor: Any, beta: float | None = None, steps: int | None = None
    ):
        super().__init__()
        self._args = (background, tuple(predictor), beta, steps)

    def expand(self, scored: beam.PCollection) -> beam.PCollection:
        load = functools.partial(_load_affinity_predictor, *self._args[1])
        return scored | with_dead_letter("refine", _refine_walk, *self._args, setup=load)


class LabelAffinity(beam.PTransform):
    """Mask of each `ScoredImage` that an AffinityNet is trained on, see `wsss.refine.affinity_labels`.

    Source: Ahn & Kwak, CVPR 2018, section 3.2; the exponents are SEAM's.

    Args:
        preset: of the CRF, as in `RefineCRF`.
        low_alpha, high_alpha: exponents of the background score `(1 - max) ** alpha`.
    """

    def __init__(self, preset: str, low_alpha: float = 4.0, high_alpha: float = 24.0):
        super().__init__()
        self._args = (preset, low_alpha, high_alpha)

    def expand(self, scored: beam.PCollection) -> beam.PCollection:
        return scored | with_dead_letter("refine", _label_affinity, *self._args)


class LabelIRN(beam.PTransform):
    """Mask of each `ScoredImage` that an IRNet is trained on, see `wsss.refine.irn_labels`.

    Source: Ahn, Cho & Kwak, CVPR 2019, section 4.2.

    Args:
        preset: of the CRF, as in `RefineCRF`; published with `irn`.
    """

    def __init__(self, preset: str):
        super().__init__()
        self._preset = preset

    def expand(self, scored: beam.PCollection) -> beam.PCollection:
        return scored | with_dead_letter("refine", _label_irn, self._preset)


def _merge_scales(cams):
    size = (cams.input.record.height, cams.input.record.width)
    merged = merge_scales(cams.cams, cams.scaled_sizes, size)
    if cams.has_background:
        probabilities = round_scores(normalize_probabilities(merged))
        background, scores = probabilities[0], probabilities[1:]
    else:
        background, scores = None, round_scores(normalize_scores(merged))
    by_model = ImageScores(cams.class_ids, scores, cams.classifier_scores, cams.agreement, background)
    return ScoredImage.of(cams.input, by_model)


def _keep_unrefined(scored, background):
    if not scored.class_ids:
        return scored
    mask = _label_pixels(scored, background).mask
    return scored._replace(unrefined=Unrefined(mask, scored.scores.max(axis=0)))


def _label_pixels(scored, background):
    if scored.refined is None:
        class_scores, background_score = scored.scores, background(scored.scores)
    else:
        class_scores, background_score = scored.refined[1:], scored.refined[0]
    return scored._replace(mask=mask_from_scores(class_scores, scored.class_ids, background_score))


def _refine_crf(scored, background, preset, unary, iterations):
    from wsss.refine.crf import DenseCRF, unary_from_labels, unary_from_probabilities

    if not scored.class_ids:
        return scored
    stacked = scored.refined
    if stacked is None:
        stacked = np.concatenate([background(scored.scores)[None], scored.scores])
    if unary == "labels":
        energies = unary_from_labels(stacked.argmax(axis=0), len(stacked))
    else:
        energies = unary_from_probabilities(np.clip(np.moveaxis(stacked, 0, -1), 0, 1))
    refined = DenseCRF(_image(scored), preset).infer(energies, iterations)
    return scored._replace(refined=np.ascontiguousarray(np.moveaxis(refined, -1, 0)))


def _load_affinity_predictor(*args):
    import_tensorflow(memory_growth=True)
    from wsss.inference.loading import cached_affinity_predictor

    return cached_affinity_predictor(*args)


def _refine_walk(scored, background, predictor, beta, steps):
    from wsss.refine.affinity import edge_affinity, pair_affinity
    from wsss.refine.walk import random_walk

    if not scored.class_ids:
        return scored
    network = _load_affinity_predictor(*predictor)
    relations = network.predict(_image(scored))
    if network.kind == "affinity":
        affinity = pair_affinity(relations, network.radius)
    else:
        affinity = edge_affinity(relations[..., 0], EDGE_RADIUS)
    published_beta, published_steps = PUBLISHED_WALKS[network.kind]
    stacked = np.concatenate([background(scored.scores)[None], scored.scores])
    walked = random_walk(
        np.moveaxis(mean_of_cells(stacked, relations.shape[:2]), 0, -1),
        affinity,
        published_beta if beta is None else beta,
        published_steps if steps is None else steps,
    )
    return scored._replace(refined=enlarge_cells(np.moveaxis(walked, -1, 0), stacked.shape[1:]))


def _refine_pamr(scored, iterations):
    if not scored.class_ids:
        return scored
    image = _image(scored)[None].astype(np.float32) / 255
    maps = scored.scores if scored.refined is None else scored.refined
    averaged = pamr_of_any_size(iterations)(image, np.moveaxis(maps, 0, -1)[None])
    refined = np.ascontiguousarray(np.moveaxis(averaged.numpy()[0], -1, 0))
    if scored.refined is None:
        return scored._replace(scores=refined)
    return scored._replace(scores=refined[1:], refined=refined)


@functools.lru_cache(maxsize=1)
def pamr_of_any_size(iterations: int) -> Callable:
    """`wsss.ops.pamr.refine_masks` as one graph for every size and number of classes."""
    import_tensorflow(memory_growth=True)
    import tensorflow as tf

    from wsss.ops.pamr import refine_masks

    any_size = [tf.TensorSpec((1, None, None, channels), tf.float32) for channels in (3, None)]
    return tf.function(
        functools.partial(refine_masks, iterations=iterations), input_signature=any_size, autograph=False
    )


def _label_affinity(scored, preset, low_alpha, high_alpha):
    from wsss.refine.crf import DenseCRF, unary_from_probabilities
    from wsss.refine.labels import affinity_labels

    if not scored.class_ids:
        return scored._replace(mask=np.zeros(scored.scores.shape[1:], np.uint8))
    energies = []
    for alpha in (low_alpha, high_alpha):
        stacked = np.concatenate([background_scores(scored.scores, alpha=alpha)[None], scored.scores])
        energies.append(unary_from_probabilities(np.moveaxis(stacked, 0, -1)))
    low, high = DenseCRF(_image(scored), preset).infer(energies)
    return scored._replace(mask=_class_labels(affinity_labels(low, high), scored.class_ids))


def _label_irn(scored, preset):
    from wsss.refine.crf import DenseCRF
    from wsss.refine.labels import irn_labels

    if not scored.class_ids:
        return scored._replace(mask=np.zeros(scored.scores.shape[1:], np.uint8))
    labels = irn_labels(np.moveaxis(scored.scores, 0, -1), DenseCRF(_image(scored), preset))
    return scored._replace(mask=_class_labels(labels, scored.class_ids))


def _class_labels(indices, class_ids):
    """Labels of the collection, from indices into background and `class_ids`; 255 stays."""
    labels = np.full(256, IGNORE, np.uint8)
    labels[: len(class_ids) + 1] = [0, *(class_id + 1 for class_id in class_ids)]
    return labels[indices]


def _image(scored):
    record = scored.input.record
    return decode_image(record.image_bytes, record.orientation)
