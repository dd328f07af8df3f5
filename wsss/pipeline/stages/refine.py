"""From seeds to masks: one thin PTransform a stage around a pure function on one image."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
import numpy as np

from wsss.common.constants import IGNORE
from wsss.common.tf_import import import_tensorflow
from wsss.data.images import decode_image
from wsss.inference.cam_scores import (
    background_scores,
    enlarge_cells,
    mask_from_scores,
    mean_of_cells,
    merge_scales,
    normalize_scores,
)
from wsss.pipeline.failures import FAILURES, Failure, reason
from wsss.pipeline.stages.read import Item

PUBLISHED_WALKS = {"affinity": (8.0, 64), "edge": (10.0, 256)}  # exponent of the affinities, steps
EDGE_RADIUS = 5  # positions, of the walk between edges


class Scored(NamedTuple):
    """What is known about each pixel of one image, at the image's own size.

    Attributes:
        item: the image.
        keys: the classes of `scores`, 0-based, ascending.
        scores: float32 `(len(keys), height, width)` in [0, 1].
        classifier_scores: float32 `(classes,)`.
        refined: float32 `(1 + len(keys), height, width)`, background first, or None before a stage that
            refines background and classes together.
        mask: uint8 `(height, width)`, or None before there is one.
    """

    item: Item
    keys: tuple[int, ...]
    scores: np.ndarray
    classifier_scores: np.ndarray
    refined: np.ndarray | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Background:
    """The rule for the score of the background, see `cam_scores.background_scores`."""

    threshold: float | None = None
    alpha: float | None = None

    def __call__(self, scores):
        return background_scores(scores, self.threshold, self.alpha)


class MergeScales(beam.PTransform):
    """`Seed`s to `Scored`s: the maps of all scales at the size of the image, summed and normalised."""

    def expand(self, seeds):
        return seeds | guarded("refine", _merge_scales)


class LabelPixels(beam.PTransform):
    """Gives each `Scored` its mask, the label of the highest score at each pixel."""

    def __init__(self, background):
        super().__init__()
        self._background = background

    def expand(self, scored):
        return scored | guarded("refine", _label_pixels, self._background)


class RefineCRF(beam.PTransform):
    """Sharpens background and classes of each `Scored` along the colour edges of its image, by a dense CRF.

    Args:
        background: the `Background` that joins the classes, unless a stage before has refined all together.
        preset: name of constants in `wsss.refine.crf.dense_crf.PRESETS`.
        unary: `probabilities` takes the scores as they are, as SEAM does with the power background; `labels`
            takes the best label of each pixel with confidence 0.7, as PPC and IRN do with a constant one.
        iterations: mean-field updates; None as in the preset.
    """

    def __init__(self, background, preset, unary, iterations=None):
        super().__init__()
        self._args = (background, preset, unary, iterations)

    def expand(self, scored):
        return scored | guarded("refine", _refine_crf, *self._args)


class RefinePAMR(beam.PTransform):
    """Averages the class scores of each `Scored` over pixels around that look alike, see `wsss.ops.pamr`.

    Runs on the accelerator if the worker has one.

    Args:
        iterations: number of averagings.
    """

    def __init__(self, iterations=10):
        super().__init__()
        self._iterations = iterations

    def expand(self, scored):
        return scored | guarded("refine", _refine_pamr, self._iterations)


class RefineWalk(beam.PTransform):
    """Spreads background and classes of each `Scored` over pixels that a network takes for one thing.

    Scores are averaged over the cells of the network's grid, walk by the affinities of an AffinityNet or
    between the edges of an IRNet, and are interpolated back. IRN lets the classes walk alone; together with
    the background its score means the same before and after.

    Source: Ahn & Kwak, CVPR 2018, section 3.3; Ahn, Cho & Kwak, CVPR 2019, section 5.2.

    Args:
        background: the `Background` that joins the classes.
        predictor: arguments of `wsss.inference.predictor.cached_relation_predictor`.
        beta: > 0, exponent of the affinities; None: as published, 8 of an AffinityNet and 10 of an IRNet.
        steps: >= 0, length of the walk; None: as published, 64 and 256.
    """

    def __init__(self, background, predictor, beta=None, steps=None):
        super().__init__()
        self._args = (background, tuple(predictor), beta, steps)

    def expand(self, scored):
        return scored | guarded("refine", _refine_walk, *self._args)


class LabelAffinity(beam.PTransform):
    """Gives each `Scored` the label map that an AffinityNet is trained on, see `wsss.refine.affinity_labels`.

    Source: Ahn & Kwak, CVPR 2018, section 3.2; the exponents are SEAM's.

    Args:
        preset: of the CRF, as in `RefineCRF`.
        low_alpha, high_alpha: exponents of the background score `(1 - max) ** alpha`.
    """

    def __init__(self, preset, low_alpha=4.0, high_alpha=24.0):
        super().__init__()
        self._args = (preset, low_alpha, high_alpha)

    def expand(self, scored):
        return scored | guarded("refine", _label_affinity, *self._args)


class LabelIRN(beam.PTransform):
    """Gives each `Scored` the label map that an IRNet is trained on, see `wsss.refine.irn_labels`.

    Source: Ahn, Cho & Kwak, CVPR 2019, section 4.2.

    Args:
        preset: of the CRF, as in `RefineCRF`; published with `irn`.
    """

    def __init__(self, preset):
        super().__init__()
        self._preset = preset

    def expand(self, scored):
        return scored | guarded("refine", _label_irn, self._preset)


def guarded(stage, function, *args):
    """Maps elements to `function(element, *args)` (main tag `results`); one that raises becomes a `Failure`.

    Args:
        stage: what `Failure`s name as their stage.
        function: module-level function on an element that has an `item`.
        *args: its further arguments.
    """
    return beam.ParDo(_Guarded(stage, function, args)).with_outputs(FAILURES, main="results")


class _Guarded(beam.DoFn):
    def __init__(self, stage, function, args):
        self._stage, self._function, self._args = stage, function, args

    def process(self, element):
        try:
            yield self._function(element, *self._args)
        except Exception as error:  # a pure function on one image: whatever it raises is about the image
            item = element.item
            failure = Failure(item.shard, item.record.image_id, self._stage, reason(error))
            yield beam.pvalue.TaggedOutput(FAILURES, failure)


def _merge_scales(seed):
    size = (seed.item.record.height, seed.item.record.width)
    scores = normalize_scores(merge_scales(seed.cams, seed.scaled_sizes, size))
    return Scored(seed.item, seed.keys, scores, seed.scores)


def _label_pixels(scored, background):
    if scored.refined is None:
        return scored._replace(mask=mask_from_scores(scored.scores, scored.keys, background(scored.scores)))
    return scored._replace(mask=mask_from_scores(scored.refined[1:], scored.keys, scored.refined[0]))


def _refine_crf(scored, background, preset, unary, iterations):
    from wsss.refine.crf.dense_crf import DenseCRF, unary_from_labels, unary_from_probabilities

    if not scored.keys:
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


def _refine_walk(scored, background, predictor, beta, steps):
    from wsss.inference.predictor import cached_relation_predictor
    from wsss.refine.affinity import edge_affinity, pair_affinity
    from wsss.refine.random_walk import random_walk

    if not scored.keys:
        return scored
    import_tensorflow()
    network = cached_relation_predictor(*predictor)
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
    if not scored.keys:
        return scored
    image = _image(scored)[None].astype(np.float32) / 255
    refined = pamr_of_any_size(iterations)(image, np.moveaxis(scored.scores, 0, -1)[None])
    return scored._replace(scores=np.ascontiguousarray(np.moveaxis(refined.numpy()[0], -1, 0)))


@functools.lru_cache(maxsize=1)
def pamr_of_any_size(iterations):
    """`wsss.ops.pamr.refine_masks` as one graph for every size and number of classes."""
    import_tensorflow()
    import tensorflow as tf

    from wsss.ops.pamr import refine_masks

    any_size = [tf.TensorSpec((1, None, None, channels), tf.float32) for channels in (3, None)]
    return tf.function(
        functools.partial(refine_masks, iterations=iterations), input_signature=any_size, autograph=False
    )


def _label_affinity(scored, preset, low_alpha, high_alpha):
    from wsss.refine.crf.dense_crf import DenseCRF, unary_from_probabilities
    from wsss.refine.labels import affinity_labels

    if not scored.keys:
        return scored._replace(mask=np.zeros(scored.scores.shape[1:], np.uint8))
    energies = []
    for alpha in (low_alpha, high_alpha):
        stacked = np.concatenate([background_scores(scored.scores, alpha=alpha)[None], scored.scores])
        energies.append(unary_from_probabilities(np.moveaxis(stacked, 0, -1)))
    low, high = DenseCRF(_image(scored), preset).infer(energies)
    return scored._replace(mask=_class_labels(affinity_labels(low, high), scored.keys))


def _label_irn(scored, preset):
    from wsss.refine.crf.dense_crf import DenseCRF
    from wsss.refine.labels import irn_labels

    if not scored.keys:
        return scored._replace(mask=np.zeros(scored.scores.shape[1:], np.uint8))
    labels = irn_labels(np.moveaxis(scored.scores, 0, -1), DenseCRF(_image(scored), preset))
    return scored._replace(mask=_class_labels(labels, scored.keys))


def _class_labels(indices, keys):
    """Labels of the collection, from indices into background and `keys`; 255 stays."""
    labels = np.full(256, IGNORE, np.uint8)
    labels[: len(keys) + 1] = [0, *(key + 1 for key in keys)]
    return labels[indices]


def _image(scored):
    record = scored.item.record
    return decode_image(record.image_bytes, record.orientation)
