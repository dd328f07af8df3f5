"""Affinity of pairs of nearby pixels: from features (AffinityNet) or from edges (IRN), and its losses.

Sources: Ahn & Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly
Supervised Semantic Segmentation", CVPR 2018; Ahn, Cho & Kwak, "Weakly Supervised Learning of Instance
Segmentation with Inter-pixel Relations", CVPR 2019; and their released code.

Pairs are an axis of offsets `(dy, dx)` from a "from" pixel to a "to" pixel, each unordered pair once.
From pixels are those that have all their neighbors inside the image: with `reach = radius - 1`, the
rows `0 … height - radius` and the columns `reach … width - radius`. Values of pairs are shaped
`(batch, height - reach, width - 2 * reach, offsets)`.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from wsss.common.pixel_pairs import pair_offsets, path_pixels

EPSILON = 1e-5  # in the logarithms and divisions of all losses, as published


class PairLabels(NamedTuple):
    """Kind of each pair, float32 0/1; pairs with an ignored pixel are 0 in all three."""

    background: Any  # both pixels are background
    foreground: Any  # both are of the same class
    negative: Any  # they differ


class AffinityLoss(NamedTuple):
    """The mean over the pairs of each kind, float scalars."""

    background: Any
    foreground: Any
    negative: Any

    @property
    def total(self) -> Any:
        """Weighted as published for both systems: half for pairs alike, half for pairs that differ."""
        return self.background / 4 + self.foreground / 4 + self.negative / 2


class DisplacementLoss(NamedTuple):
    """IRN's two displacement terms, float scalars."""

    background: Any
    foreground: Any

    @property
    def total(self) -> Any:
        return (self.background + self.foreground) / 2


@functools.lru_cache(maxsize=32)
def path_offsets(radius: int) -> tuple[tuple[int, int], ...]:
    """`pair_offsets` in the order of IRN: by the number of pixels on the path, then as they were."""
    return tuple(sorted(pair_offsets(radius), key=_path_length))


def feature_affinity(feature: Any, radius: int = 5, all_pairs: bool = False) -> Any:
    """Affinity of pixel pairs, `exp(-mean |difference of features|)`.

    Args:
        feature: float (batch, height, width, channels).
        radius: int >= 2.
        all_pairs: whether every pixel is a from pixel, for the random walk: the result is then
            (batch, height, width, offsets) and 0 where the to pixel lies outside. Training, as
            published, uses the pairs whose from pixel has all neighbors inside.

    Returns:
        float (batch, rows, columns, offsets), in [0, 1], in the order of `pair_offsets(radius)`.
    """
    inside = None
    if all_pairs:
        reach = radius - 1
        around = ((0, 0), (0, reach), (reach, reach), (0, 0))
        inside = _stack_pairs(
            lambda _, to: to[..., 0], ops.pad(ops.ones_like(feature[..., :1]), around), radius
        )
        feature = ops.pad(feature, around)
    difference = _stack_pairs(lambda start, to: ops.mean(ops.abs(to - start), axis=-1), feature, radius)
    affinity = ops.exp(-difference)
    return affinity if inside is None else affinity * inside


def path_affinity(edge: Any, radius: int) -> Any:
    """Affinity of pixel pairs, 1 - the strongest edge on the line between them.

    For training: it holds every pixel of every path, as the released code does, and so compiles
    quickly. To refine an image without gradient, see `wsss.refine`.

    Args:
        edge: float (batch, height, width) or (batch, height, width, 1), in [0, 1].
        radius: int >= 2.

    Returns:
        float (batch, rows, columns, offsets), in the order of `path_offsets(radius)`.
    """
    edge = edge[..., 0] if len(edge.shape) == 4 else edge
    strongest = []
    for _, offsets in itertools.groupby(path_offsets(radius), key=_path_length):
        paths = [path_pixels(*offset) for offset in offsets]
        strongest.append(ops.max(_values_at(edge, paths, radius - 1), axis=-1))
    return 1 - ops.concatenate(strongest, axis=-1)


def pair_labels(labels: Any, offsets: Sequence[tuple[int, int]]) -> PairLabels:
    """Semantic affinity labels of pixel pairs.

    Source: Ahn & Kwak, CVPR 2018, section 3.2; Ahn, Cho & Kwak, CVPR 2019, released code.

    Args:
        labels: int (batch, height, width), 0 = background, 255 = ignore.
        offsets: `pair_offsets(radius)` or `path_offsets(radius)`.

    Returns:
        `PairLabels`, each float32 (batch, rows, columns, offsets).
    """
    labels, reach = ops.cast(labels, "int32"), _reach(offsets)
    start, to = _values_at(labels, [(0, 0)], reach), _values_at(labels, offsets, reach)
    valid = ops.logical_and(start < 255, to < 255)
    same = ops.logical_and(start == to, valid)
    masks = (
        ops.logical_and(same, start == 0),
        ops.logical_and(same, start != 0),
        ops.logical_and(start != to, valid),
    )
    return PairLabels(*(ops.cast(mask, "float32") for mask in masks))


def affinity_loss(affinity: Any, labels: PairLabels) -> AffinityLoss:
    """Logistic loss of affinities, balanced between the three kinds of pairs.

    Args:
        affinity: float (batch, rows, columns, offsets), in [0, 1].
        labels: `PairLabels` in the same order of offsets.

    Returns:
        `AffinityLoss`; sums and counts run over the whole batch.
    """
    affinity = ops.cast(affinity, "float32")
    positive, negative = -ops.log(affinity + EPSILON), -ops.log(1 + EPSILON - affinity)
    return AffinityLoss(
        background=_masked_mean(positive, labels.background),
        foreground=_masked_mean(positive, labels.foreground),
        negative=_masked_mean(negative, labels.negative),
    )


def displacement_loss(
    displacement: Any, labels: PairLabels, offsets: Sequence[tuple[int, int]]
) -> DisplacementLoss:
    """IRN's displacement loss: pixels of one instance point at one center.

    Within a class, displacements differ by the offset of the pixels; on the background by nothing.

    Args:
        displacement: float (batch, height, width, 2), (y, x) in pixels.
        labels: `PairLabels` in the order of `offsets`.
        offsets: `path_offsets(radius)`.

    Returns:
        `DisplacementLoss`.
    """
    displacement, reach = ops.cast(displacement, "float32"), _reach(offsets)
    start = _values_at(displacement, [(0, 0)], reach)
    difference = start - _values_at(displacement, offsets, reach)
    apart = ops.sum(ops.abs(difference), axis=-1)
    wanted = ops.convert_to_tensor(np.array(offsets, "float32"))
    misplaced = ops.sum(ops.abs(difference - wanted), axis=-1)
    return DisplacementLoss(
        background=ops.sum(apart * labels.background) / (2 * ops.sum(labels.background) + EPSILON),
        foreground=ops.sum(misplaced * labels.foreground) / (2 * ops.sum(labels.foreground) + EPSILON),
    )


def _values_at(maps, steps, reach):
    """Values at every from pixel moved by every step: (batch, rows, columns, *steps, channels).

    Args:
        maps: (batch, height, width) or (batch, height, width, channels).
        steps: ints (…, 2), (dy, dx).
        reach: int, the longest step along an axis.
    """
    batch, height, width, *channels = ops.shape(maps)
    steps = ops.convert_to_tensor(np.array(steps, "int32"))
    rows = ops.arange(height - reach, dtype="int32") * width
    columns = ops.arange(reach, width - reach, dtype="int32")
    start = rows[:, None] + columns
    start = ops.reshape(start, (*ops.shape(start), *[1] * (len(steps.shape) - 1)))
    pixels = start + steps[..., 0] * width + steps[..., 1]
    return ops.take(ops.reshape(maps, (batch, height * width, *channels)), pixels, axis=1)


def _stack_pairs(function, maps, radius):
    pairs = [_pair(maps, offset, radius - 1) for offset in pair_offsets(radius)]
    return ops.stack([function(start, to) for start, to in pairs], axis=-1)


def _pair(maps, offset, reach):
    """From pixels and the pixels `offset` away from them, of (batch, height, width, …)."""
    dy, dx = offset
    return _trim(maps, 0, reach, reach, reach), _trim(maps, dy, reach - dy, reach + dx, reach - dx)


def _trim(maps, top, bottom, left, right):
    return maps[:, top : -bottom or None, left : -right or None]


def _reach(offsets):
    return max(dx for _, dx in offsets)


def _path_length(offset):
    return len(path_pixels(*offset))


def _masked_mean(values, mask):
    return ops.sum(values * mask) / (ops.sum(mask) + EPSILON)
