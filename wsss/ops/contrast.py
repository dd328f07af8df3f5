"""Pixel-to-prototype contrast (PPC) between two views of the same images.

Source: Du et al., "Weakly Supervised Semantic Segmentation by Pixel-to-Prototype Contrast", CVPR 2022,
section 3, and the released code.

Pixels of both views lie on one small grid and are numbered in row-major order of (batch, row, column);
class 0 is the background. Prototypes and pseudo labels carry no gradient. The features of absent
classes and of the background deserve a note: the released code takes the background's prototype from
the first pixels of the batch (its score is one constant, so all are ties) and gives classes that no
image has a prototype too. `repaired=True` takes the background from the pixels with the least
foreground, all of them where they tie, and leaves absent classes out of prototypes and denominators.
"""

from typing import Any, NamedTuple

import keras
from keras import ops

from wsss.ops.cam import background_score, mask_classes, min_max_normalize
from wsss.ops.resize import resize_bilinear
from wsss.ops.vectors import unit_vectors

ABSENT = -1e9  # similarity to a prototype that does not exist: its exponential is 0


class ContrastView(NamedTuple):
    """Features and refined maps of one view, at any resolution."""

    projection: Any  # float (batch, height, width, channels)
    refined_cam: Any  # float (batch, height, width, K), raw, foreground only


class Contrast(NamedTuple):
    """The three terms, each a float scalar, not yet weighted."""

    cross_prototype: Any
    cross_cam: Any
    intra_view: Any


class Prototypes(NamedTuple):
    """One unit vector for each class."""

    vectors: Any  # float32 (K + 1, channels)
    pixels: Any  # int32 (K + 1, count): the pixels that each is the mean of
    exists: Any  # bool (K + 1,)


def pixel_prototype_contrast(
    view: ContrastView,
    other: ContrastView,
    image_labels: Any,
    *,
    sampled: tuple[Any, Any] = (None, None),
    seed: int | keras.random.SeedGenerator | None = None,
    grid: tuple[int, int] = (16, 16),
    background_threshold: float = 0.2,
    pixels_per_prototype: int = 32,
    temperature: float = 0.1,
    negative_ranks: tuple[int, int] = (3, 13),
    hard_pixel_range: tuple[float, float] = (0.1, 0.6),
    repaired: bool = False,
) -> Contrast:
    """All terms of pixel-to-prototype contrast for a pair of views that show the same pixels.

    Args:
        view: `ContrastView`.
        other: `ContrastView`; after resizing to `grid`, its pixels must be those of `view`.
        image_labels: float 0/1 (batch, K).
        sampled: for each view bool (batch * grid,), the pixels taken in addition to the hard ones in
            the intra-view term, or None: `sample_pixels` takes as many of each class as are not hard.
        seed: int, `keras.random.SeedGenerator`, or None: see `sample_pixels`.
        grid: `(height, width)` to which all maps are resized (aligned corners).
        background_threshold: in [0, 1], the background's score at every pixel.
        pixels_per_prototype: >= 1, see `estimate_prototypes`.
        temperature: > 0.
        negative_ranks: see `intra_view_contrast`.
        hard_pixel_range: see `intra_view_contrast`.
        repaired: whether to repair the background's prototype and leave out absent classes; see the
            module.

    Returns:
        `Contrast`.
    """
    views = []
    for maps in (view, other):
        scores = class_scores(maps.refined_cam, background_threshold, grid)
        features = _flatten(resize_bilinear(ops.cast(maps.projection, "float32"), grid, align_corners=True))
        labels = pseudo_labels(scores, image_labels)
        prototypes = estimate_prototypes(features, scores, image_labels, pixels_per_prototype, repaired)
        views.append((unit_vectors(features), labels, prototypes))
    (pixels1, labels1, prototypes1), (pixels2, labels2, prototypes2) = views

    def cross(pixels, labels, prototypes):
        return prototype_contrast(pixels, labels, prototypes, temperature)

    def intra(pixels, labels, prototypes, sampled):
        if sampled is None:
            sampled = sample_pixels(labels, 1 - (hard_pixel_range[1] - hard_pixel_range[0]), seed)
        return intra_view_contrast(
            pixels,
            labels,
            prototypes,
            sampled,
            temperature,
            negative_ranks=negative_ranks,
            hard_pixel_range=hard_pixel_range,
        )

    return Contrast(
        cross_prototype=(cross(pixels1, labels1, prototypes2) + cross(pixels2, labels2, prototypes1)) / 2,
        cross_cam=(cross(pixels1, labels2, prototypes1) + cross(pixels2, labels1, prototypes2)) / 2,
        intra_view=(intra(*views[0], sampled[0]) + intra(*views[1], sampled[1])) / 2,
    )


def class_scores(
    refined_cam: Any, background_threshold: float = 0.2, grid: tuple[int, int] = (16, 16)
) -> Any:
    """Scores of background and classes on the grid, without gradient.

    Args:
        refined_cam: float (batch, height, width, K), raw, foreground only.
        background_threshold: the background's score, at every pixel.
        grid: `(height, width)` of the result.

    Returns:
        float32 (batch, *grid, K + 1): `min_max_normalize` of the resized maps behind channel 0.
    """
    cam = ops.stop_gradient(ops.cast(refined_cam, "float32"))
    scores = min_max_normalize(resize_bilinear(cam, grid, align_corners=True))
    return ops.concatenate([ops.full_like(scores[..., :1], background_threshold), scores], axis=-1)


def pseudo_labels(scores: Any, image_labels: Any) -> Any:
    """Class of each pixel: the highest score among background and the classes of its image.

    Args:
        scores: float (batch, height, width, K + 1), of `class_scores`.
        image_labels: float 0/1 (batch, K).

    Returns:
        int32 (batch * height * width,), 0 = background.
    """
    masked = mask_classes(scores, _with_background(image_labels))
    return ops.cast(ops.argmax(_flatten(masked), axis=-1), "int32")


def estimate_prototypes(
    features: Any, scores: Any, image_labels: Any, count: int = 32, repaired: bool = False
) -> Prototypes:
    """Prototype of each class: the mean, weighted by score, of the pixels that score highest.

    Equal scores are taken in the order of the pixels, on every backend; where `repaired` all pixels
    join that tie with the last one taken.

    Args:
        features: float (pixels, channels), not normalized.
        scores: float (batch, height, width, K + 1), of `class_scores`.
        image_labels: float 0/1 (batch, K); read only where `repaired`.
        count: pixels a prototype, whatever the batch size.
        repaired: see the module.

    Returns:
        `Prototypes`, without gradient.
    """
    features = ops.stop_gradient(features)
    exists = ops.ones((scores.shape[-1],), "bool")
    if repaired:
        labels = _with_background(image_labels)
        exists = ops.any(labels > 0, axis=0)
        foreground = ops.relu(mask_classes(scores, labels)[..., 1:])
        scores = ops.concatenate([background_score(foreground), foreground], axis=-1)
    scores = ops.transpose(_flatten(scores))
    # `top_k` leaves the order of ties to the backend; sorting is stable on all of them.
    pixels = ops.cast(ops.argsort(-scores, axis=-1)[:, :count], "int32")
    weights = ops.take_along_axis(scores, pixels, axis=-1)
    if repaired:
        # All pixels that tie with the last: many have no foreground at all, of which none comes first.
        weights = ops.where(scores >= weights[:, -1:], scores, 0.0)
        return Prototypes(unit_vectors(ops.matmul(weights, features)), pixels, exists)
    total = ops.sum(weights, axis=-1, keepdims=True)
    vectors = ops.sum(ops.take(features, pixels, axis=0) * weights[..., None], axis=1) / total
    return Prototypes(unit_vectors(vectors), pixels, exists)


def prototype_contrast(pixels: Any, labels: Any, prototypes: Prototypes, temperature: float = 0.1) -> Any:
    """Noise-contrastive loss: each pixel against the prototype of its class among all of them.

    Args:
        pixels: float (pixels, channels), of length 1.
        labels: int (pixels,).
        prototypes: `Prototypes`.
        temperature: > 0.

    Returns:
        float scalar, the mean over the pixels.
    """
    logits = _similarity(pixels, prototypes) / temperature
    return ops.mean(ops.logsumexp(logits, axis=-1) - _at_label(logits, labels))


def intra_view_contrast(
    pixels: Any,
    labels: Any,
    prototypes: Prototypes,
    sampled: Any,
    temperature: float = 0.1,
    *,
    negative_ranks: tuple[int, int] = (3, 13),
    hard_pixel_range: tuple[float, float] = (0.1, 0.6),
) -> Any:
    """Contrast within a view, on half of each class's pixels at random and as many hard ones.

    Negatives are semi-hard: the prototypes at `negative_ranks` of similarity to the pixel. As published, the
    pixel's own prototype may be among them and then counts twice. A class with one pixel adds nothing
    but counts as a class.

    Args:
        pixels: float (pixels, channels), of length 1.
        labels: int (pixels,).
        prototypes: `Prototypes` of the same view.
        sampled: bool (pixels,), pixels that count beside the hard ones, as published half (rounded down)
            of each class.
        temperature: > 0.
        negative_ranks: `(first, end)`, 0 = most similar; clipped to the number of prototypes.
        hard_pixel_range: `(first, end)` in [0, 1]: of the pixels of a class, sorted from the least similar
            to their prototype, the fraction at `end` (rounded down) ends the hard ones, and `end - first` of
            the pixels (rounded down) are hard.

    Returns:
        float scalar: the sum over classes of the mean over their chosen pixels, by present classes.
    """
    similarity = _similarity(pixels, prototypes)
    positive = _at_label(similarity, labels)
    first, end = negative_ranks
    ranked = ops.top_k(similarity, min(end, similarity.shape[-1]))[0]
    compared = ops.concatenate([positive[:, None], ranked[:, first:]], axis=-1) / temperature
    loss = ops.logsumexp(compared, axis=-1) - compared[:, 0]

    classes = similarity.shape[-1]
    class_size = ops.sum(ops.one_hot(labels, classes, dtype="int32"), axis=0)
    size = ops.take(class_size, labels)
    hard_count = _portion(size, hard_pixel_range[1] - hard_pixel_range[0])
    hard_end = _portion(size, hard_pixel_range[1])
    rank = _rank_in_class(labels, ops.stop_gradient(positive))
    hard = ops.logical_and(rank >= hard_end - hard_count, rank < hard_end)
    taken = ops.cast(hard, "float32") + ops.cast(sampled, "float32")
    taken_in_class = ops.segment_sum(taken, labels, num_segments=classes)
    weight = taken / ops.maximum(ops.take(taken_in_class, labels), 1.0)
    present = ops.sum(ops.cast(class_size > 0, "float32"))
    return ops.sum(weight * loss) / present


def sample_pixels(
    labels: Any, fraction: float = 0.5, seed: int | keras.random.SeedGenerator | None = None
) -> Any:
    """A random fraction of the pixels of each class (rounded down).

    Args:
        labels: int (pixels,).
        fraction: in [0, 1].
        seed: int or `keras.random.SeedGenerator` for a random choice; None for evenly spaced pixels, every
            other one for the half.

    Returns:
        bool (pixels,).
    """
    key = ops.cast(ops.arange(ops.shape(labels)[0]), "float32")
    if seed is not None:
        key = keras.random.uniform(ops.shape(labels), seed=seed)
    rank = _rank_in_class(labels, key)
    return _portion(rank + 1, fraction) > _portion(rank, fraction)


def _portion(count, fraction):
    """`count * fraction` rounded down; the small addend makes 0.6 * 5 three on every backend."""
    return ops.cast(ops.cast(count, "float32") * fraction + 1e-2, "int32")


def _rank_in_class(labels, key):
    """Position of each pixel among the pixels of its class sorted by `key`, ascending."""
    order = ops.argsort(key)
    order = ops.take(order, ops.argsort(ops.take(labels, order)))  # stable: by class, then by key
    sorted_labels = ops.take(labels, order)
    first_of_class = ops.searchsorted(sorted_labels, sorted_labels)
    position = ops.arange(ops.shape(labels)[0], dtype="int32")
    return ops.take(position - ops.cast(first_of_class, "int32"), ops.argsort(order))


def _similarity(pixels, prototypes):
    similarity = ops.matmul(pixels, ops.transpose(ops.stop_gradient(prototypes.vectors)))
    return ops.where(prototypes.exists, similarity, ABSENT)


def _at_label(values, labels):
    return ops.take_along_axis(values, labels[:, None], axis=-1)[:, 0]


def _flatten(maps):
    return ops.reshape(maps, (-1, maps.shape[-1]))


def _with_background(image_labels):
    return ops.pad(image_labels, ((0, 0), (1, 0)), constant_values=1)
