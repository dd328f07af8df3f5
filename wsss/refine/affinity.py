"""Affinities of nearby pixels, the input of the random walk: from an AffinityNet or from class boundaries.

The Keras forms that are trained lie in `wsss.ops.affinity`; what stands here is NumPy, for one image.
"""

import functools
from typing import NamedTuple

import numpy as np

from wsss.common.pixel_pairs import Offset, pair_offsets, path_pixels

Path = tuple[Offset, ...]


class Affinity(NamedTuple):
    """Affinity of each pixel with its neighbors; every unordered pair once.

    Attributes:
        offsets: int (pairs, 2), `(dy, dx)` from a pixel to its neighbor.
        weights: float32 (pairs, height, width) in [0, 1]; what lies outside the image is not read.
    """

    offsets: np.ndarray
    weights: np.ndarray


def pair_affinity(pairs: np.ndarray, radius: int = 5, published_borders: bool = False) -> Affinity:
    """The `Affinity` that an AffinityNet predicts.

    Args:
        pairs: float (height, width, pairs) in [0, 1], as `AffinityNet.affinity` gives it, in the order of
            `wsss.common.pixel_pairs.pair_offsets(radius)`.
        radius: pairs are nearer than this, pixels, >= 2; that of the network.
        published_borders: leave out what the published code leaves out: pairs whose upper pixel (in one row:
            left) is in the last `radius - 1` rows, or the first or last `radius - 1` columns. Its index of
            pairs was made for training, where only pixels with all their neighbors count.

    Returns:
        The `Affinity`.

    Raises:
        ValueError: there is another number of pairs than the radius has.
    """
    pairs, offsets = np.asarray(pairs), np.array(pair_offsets(radius))
    if pairs.ndim != 3 or pairs.shape[2] != len(offsets):
        raise ValueError(
            f"`pairs` must be (height, width, {len(offsets)}) for radius {radius}. Received: {pairs.shape}."
        )
    weights = np.array(np.moveaxis(pairs, 2, 0), np.float32, order="C")
    if published_borders:
        reach = radius - 1
        height, width = weights.shape[1:]
        weights[:, max(height - reach, 0) :] = 0
        weights[:, :, :reach] = 0
        weights[:, :, max(width - reach, 0) :] = 0
    return Affinity(offsets, weights)


def edge_affinity(edge: np.ndarray, radius: int = 5) -> Affinity:
    """The `Affinity` of IRN: one minus the strongest class boundary on the line between two pixels.

    The maximum over a path is that over a few shorter paths which cover it, so it takes one or two operations
    on whole images for each offset instead of one for each pixel of each path; equal to the last bit.

    Source: Ahn, Cho & Kwak, CVPR 2019, section 4.4.

    Args:
        edge: float (height, width), each in [0, 1].
        radius: pairs are nearer than this, pixels, >= 2.

    Returns:
        The `Affinity`.

    Raises:
        ValueError: the edges are not (height, width) of finite numbers.
    """
    edge = np.asarray(edge, np.float32)
    if edge.ndim != 2 or not edge.size or not np.isfinite(edge).all():
        raise ValueError(
            "`edge` must be finite numbers (height, width), not empty. "
            f"Received: shape {edge.shape}{'' if np.isfinite(edge).all() else ' with NaN or infinity'}."
        )
    height, width = edge.shape
    offsets = pair_offsets(radius)
    # A shift by (dy, dx) is one by dy * width + dx in the flat image; what that wraps around is outside.
    reach = (radius - 1) * (width + 1)
    flat = np.zeros(height * width + 2 * reach, np.float32)
    flat[reach : reach + height * width] = edge.ravel()
    # Maximum over a path, by its pixels, at each place where the path may begin.
    along: dict[Path, np.ndarray] = {((0, 0),): flat}
    for path, pieces in _path_pieces(radius):
        shifted = (_shift(along[piece], dy * width + dx) for (dy, dx), piece in pieces)
        along[path] = functools.reduce(np.maximum, shifted)
    weights = np.empty((len(offsets), height * width), np.float32)
    for weight, offset in zip(weights, offsets):
        np.subtract(1, along[path_pixels(*offset)][reach : reach + height * width], out=weight)
    return Affinity(np.array(offsets), weights.reshape(-1, height, width))


def _shift(flat: np.ndarray, distance: int) -> np.ndarray:
    """`flat[i + distance]` at each i, zero where that is outside."""
    result = np.zeros_like(flat)
    if distance > 0:
        result[:-distance] = flat[distance:]
    elif distance < 0:
        result[-distance:] = flat[:distance]
    else:
        return flat
    return result


@functools.lru_cache(maxsize=32)
def _path_pieces(radius: int) -> list[tuple[Path, list[tuple[Offset, Path]]]]:
    """For each path, shortest first: shorter paths, shifted, that together cover it.

    Returns:
        List of (path, pieces), a piece being (shift, path); paths as in `path_pixels`.
    """
    plan: list[tuple[Path, list[tuple[Offset, Path]]]] = []
    known: list[Path] = [((0, 0),)]
    for path in sorted((path_pixels(*offset) for offset in pair_offsets(radius)), key=len):
        pieces = []
        for piece in known:
            for y, x in path:  # where the first pixel of the piece may lie
                dy, dx = y - piece[0][0], x - piece[0][1]
                covered = {(piece_y + dy, piece_x + dx) for piece_y, piece_x in piece}
                if covered <= set(path):
                    pieces.append(((dy, dx), piece, covered))
        left, chosen = set(path), []
        while left:
            best = max(pieces, key=lambda candidate: len(candidate[2] & left))
            chosen.append(best[:2])
            left -= best[2]
        plan.append((path, chosen))
        known.append(path)
    return plan
