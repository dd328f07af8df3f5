"""The random walk that spreads class scores to pixels with a high affinity, without ever forming its matrix.

AffinityNet and IRN multiply the scores by `T ** steps`, where T is the matrix of the affinities of all pixel
pairs, raised to a power and normalised to columns that sum to one; they square it again and again, which
takes the cube of the number of pixels. Here

- T is a stencil: only pairs nearer than `radius` have an affinity; a step is a weighted sum of shifts;
- a step is written as a flux, `v += sum_i w_i (v_i - v) / column sum`, which does not drift in float32;
- T is similar to a symmetric matrix with eigenvalues in [-1, 1], so `T ** steps` is a sum of Chebyshev
  polynomials of T with binomial weights, of which a few times the root of `steps` matter: 78 products for 256
  steps.

Sources: Ahn & Kwak, CVPR 2018, section 3.3; Ahn, Cho & Kwak, CVPR 2019, section 5.2.

    walked = random_walk(scores, feature_affinity(feature), beta=8, steps=2**6)             # AffinityNet
    walked = random_walk(scores * (1 - edge[..., None]), edge_affinity(edge), beta=10)      # IRN
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import njit

from wsss.refine.simd import broadcast, lanes, load, multiply_add, store


class Affinity(NamedTuple):
    """Affinity of each pixel with its neighbours; every unordered pair once.

    Attributes:
        offsets: int (pairs, 2), `(dy, dx)` from a pixel to its neighbour.
        weights: float32 (pairs, height, width) in [0, 1]; what lies outside the image is not read.
    """

    offsets: np.ndarray
    weights: np.ndarray


@functools.lru_cache(maxsize=32)
def neighbour_offsets(radius):
    """Offsets `(dy, dx)` of half a disc: those shorter than `radius`, by rows, then by columns.

    Args:
        radius: int >= 2.

    Returns:
        Tuple of pairs, 34 of them for radius 5.
    """
    if not isinstance(radius, (int, np.integer)) or radius < 2:
        raise ValueError(f"`radius` must be an integer, 2 or more. Received: {radius}.")
    right = [(0, dx) for dx in range(1, radius)]
    below = [(dy, dx) for dy in range(1, radius) for dx in range(1 - radius, radius)]
    return tuple(right + [(dy, dx) for dy, dx in below if dy**2 + dx**2 < radius**2])


def feature_affinity(feature, radius=5, published_borders=False):
    """AffinityNet's affinity, `exp(-mean_c |f_i - f_j|)`: Ahn & Kwak, CVPR 2018, equation 1.

    Args:
        feature: float (height, width, channels).
        radius: pairs are nearer than this, pixels, >= 2.
        published_borders: leave out what the published code leaves out: pairs whose upper pixel (in one row:
            left) is in the last `radius - 1` rows, or the first or last `radius - 1` columns. Its index of
            pairs was made for training, where only pixels with all their neighbours count.

    Returns:
        The `Affinity`.

    Raises:
        ValueError: the feature is not (height, width, channels) of finite numbers.
    """
    feature = np.ascontiguousarray(feature, np.float32)
    if feature.ndim != 3 or not feature.size or not np.isfinite(feature).all():
        raise ValueError(
            "`feature` must be finite numbers (height, width, channels), not empty. "
            f"Received: shape {feature.shape}{'' if np.isfinite(feature).all() else ' with NaN or infinity'}."
        )
    offsets = np.array(neighbour_offsets(radius))
    weights = np.zeros((len(offsets), *feature.shape[:2]), np.float32)
    _mean_differences(feature, offsets, weights)
    np.exp(-weights, out=weights)
    if published_borders:
        reach = radius - 1
        weights[:, max(feature.shape[0] - reach, 0) :] = 0
        weights[:, :, :reach] = 0
        weights[:, :, max(feature.shape[1] - reach, 0) :] = 0
    return Affinity(offsets, weights)


def edge_affinity(edge, radius=5):
    """IRN's affinity: one minus the strongest edge on the straight path between two pixels.

    The maximum over a path is that over a few shorter paths which cover it, so it takes one or two operations
    on whole images for each offset instead of one for each pixel of each path; equal to the last bit.

    Source: Ahn, Cho & Kwak, CVPR 2019, equation 1.

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
    offsets = neighbour_offsets(radius)
    # A shift by (dy, dx) is one by dy * width + dx in the flat image; what that wraps around is outside.
    reach = (radius - 1) * (width + 1)
    flat = np.zeros(height * width + 2 * reach, np.float32)
    flat[reach : reach + height * width] = edge.ravel()
    along = {((0, 0),): flat}  # maximum over a path, by its pixels, at each place where the path may begin
    for path, pieces in _path_pieces(radius):
        maximum = None
        for (dy, dx), piece in pieces:
            shifted = _shift(along[piece], dy * width + dx)
            maximum = shifted if maximum is None else np.maximum(maximum, shifted)
        along[path] = maximum
    weights = np.empty((len(offsets), height * width), np.float32)
    for weight, offset in zip(weights, offsets):
        np.subtract(1, along[_path(*offset)][reach : reach + height * width], out=weight)
    return Affinity(np.array(offsets), weights.reshape(-1, height, width))


def random_walk(scores, affinity, beta=8.0, steps=256, tolerance=1e-6):
    """Scores after a walk: `scores @ T ** steps`, T the normalised affinities to the power of `beta`.

    The result differs from the exact one by at most `tolerance` times the size of `scores`, both measured as
    the root of the sum of squares weighted by the column sums of the powered affinities, plus rounding (below
    1e-5 of the largest score).

    Args:
        scores: float (height, width, classes).
        affinity: of the same height and width; a pixel's affinity with itself is 1.
        beta: exponent of the affinities, > 0; the larger, the fewer ways there are.
        steps: of the walk, >= 0; `2 ** t` where the published code squares t times.
        tolerance: of the Chebyshev expansion, in (0, 1).

    Returns:
        float32 (height, width, classes).

    Raises:
        ValueError: sizes differ, a number is not finite, or an option is out of range.
    """
    scores = np.asarray(scores, np.float32)
    offsets, weights = np.asarray(affinity.offsets), np.asarray(affinity.weights, np.float32)
    _check_walk(scores, offsets, weights, beta, steps, tolerance)
    height, width, classes = scores.shape
    powered = _power(weights, beta)
    columns = -(-width // _LANES)
    neighbours = -(-2 * len(offsets) // 4) * 4  # the loop takes four at a time; spare ones weigh nothing
    stencil = np.zeros((height, columns, neighbours, _LANES), np.float32)
    _normalise(powered, offsets, stencil)
    margin = int(np.abs(offsets).max(initial=0))
    stride = columns * _LANES + 2 * margin
    shifts = np.zeros(neighbours, np.int64)
    shifts[: 2 * len(offsets)] = np.concatenate([offsets, -offsets]) @ np.array([stride, 1])
    current = np.zeros((classes, height + 2 * margin, stride), np.float32)
    inside = (slice(None), slice(margin, margin + height), slice(margin, margin + width))
    current[inside] = np.moveaxis(scores, 2, 0)
    coefficients = _chebyshev_coefficients(int(steps), float(tolerance))
    total = np.float32(coefficients[0]) * current
    _expand(lanes(_LANES), stencil, shifts, margin, current, np.zeros_like(current), total, coefficients)
    return np.ascontiguousarray(np.moveaxis(total[inside], 0, 2))


_LANES = 16


def _check_walk(scores, offsets, weights, beta, steps, tolerance):
    if scores.ndim != 3 or not scores.size or weights.shape != (len(offsets), *scores.shape[:2]):
        raise ValueError(
            "`scores` must be (height, width, classes), not empty, and the affinities of the same height and "
            f"width. Received: {scores.shape} and {weights.shape}."
        )
    if not np.isfinite(scores).all() or not np.isfinite(weights).all():
        raise ValueError("Scores and affinities must be finite. Received: NaN or infinity.")
    if weights.size and weights.min() < 0:
        raise ValueError(f"Affinities must be 0 or more. Received: {weights.min()}.")
    if not (np.isfinite(beta) and beta > 0):
        raise ValueError(f"`beta` must be a positive number. Received: {beta}.")
    if not isinstance(steps, (int, np.integer)) or steps < 0:
        raise ValueError(f"`steps` must be an integer, 0 or more. Received: {steps}.")
    if not 0 < tolerance < 1:
        raise ValueError(f"`tolerance` must lie between 0 and 1. Received: {tolerance}.")


def _power(weights, beta):
    """`weights ** beta`; whole exponents by multiplication, which is much faster."""
    if beta != int(beta) or beta > 1024:
        return weights ** np.float32(beta)
    result, square, exponent = None, weights, int(beta)
    while exponent:
        if exponent & 1:
            result = square if result is None else result * square
        exponent >>= 1
        if exponent:
            square = square * square
    return result


@functools.lru_cache(maxsize=64)
def _chebyshev_coefficients(steps, tolerance):
    """Weights of T_0, T_1, ... in `x ** steps`, cut where the rest sums to less than `tolerance`.

    `x ** n = 2 ** (1 - n) * sum_k binomial(n, (n - k) / 2) T_k(x)` over the k of n's parity, k = 0 halved.
    Since |T_k| <= 1 on [-1, 1], the weights that are cut bound the error.
    """
    coefficients = np.zeros(steps + 1)
    middle = steps // 2
    logarithm = math.lgamma(steps + 1) - math.lgamma(middle + 1) - math.lgamma(steps - middle + 1)
    weight = math.exp(logarithm - (steps - 1) * math.log(2))
    for below in range(middle, -1, -1):  # binomial(n, below) from the middle to the ends
        coefficients[steps - 2 * below] = weight
        weight *= below / (steps - below + 1)
    if steps % 2 == 0:
        coefficients[0] /= 2
    tails = coefficients[::-1].cumsum()[::-1]
    kept = int(np.count_nonzero(tails >= tolerance))
    result = coefficients[: max(kept, 1)].astype(np.float32)
    result.flags.writeable = False
    return result


@njit(nogil=True, cache=True)
def _normalise(weights, offsets, stencil):
    """Write the weights, divided by the column sums, to `stencil` (height, columns, 2 pairs, lanes).

    There all weights of a run of pixels are neighbours: first those towards the offsets, then those against
    them. A pixel's sum is over its pairs in both directions, and 1 for itself.
    """
    pairs, height, width = weights.shape
    size = stencil.shape[3]
    sums = np.ones((height, width), np.float64)
    for second in range(2):  # first the sums, then the weights
        for y in range(height):
            for k in range(pairs):
                dy, dx = offsets[k]
                if 0 <= y + dy < height:
                    for x in range(max(0, -dx), min(width, width - dx)):
                        weight = weights[k, y, x]
                        if second:
                            stencil[y, x // size, k, x % size] = weight / sums[y, x]
                            share = weight / sums[y + dy, x + dx]
                            stencil[y + dy, (x + dx) // size, pairs + k, (x + dx) % size] = share
                        else:
                            sums[y, x] += weight
                            sums[y + dy, x + dx] += weight


@njit(nogil=True, cache=True)
def _expand(vector_lanes, stencil, shifts, margin, current, previous, total, coefficients):
    """Add `coefficients[k] * T_k(walk) scores` for k >= 1 to `total`; `T_k = 2 walk T_{k-1} - T_{k-2}`.

    The images are (classes, height + 2 margin, stride), zero in the margins, and `current` is the scores.
    Both `current` and `previous` are overwritten.
    """
    size = len(vector_lanes)
    height, columns, neighbours = stencil.shape[:3]
    classes, _, stride = current.shape
    flat_stencil = stencil.reshape(-1)
    flat_total = total.reshape(-1)
    for degree in range(1, coefficients.size):
        here, there = current.reshape(-1), previous.reshape(-1)
        factor = broadcast(vector_lanes, np.float32(1 if degree == 1 else 2))
        coefficient = broadcast(vector_lanes, coefficients[degree])
        for y in range(height):
            for column in range(columns):
                first = (y * columns + column) * neighbours * size
                for label in range(classes):
                    place = (label * (height + 2 * margin) + margin + y) * stride + margin + column * size
                    own = load(vector_lanes, here, place)
                    # Four sums, so that an addition need not wait for the one before.
                    flux_a = flux_b = flux_c = flux_d = broadcast(vector_lanes, np.float32(0))
                    for k in range(0, neighbours, 4):
                        start = first + k * size
                        value = load(vector_lanes, here, place + shifts[k])
                        flux_a = multiply_add(load(vector_lanes, flat_stencil, start), value - own, flux_a)
                        value = load(vector_lanes, here, place + shifts[k + 1])
                        weight = load(vector_lanes, flat_stencil, start + size)
                        flux_b = multiply_add(weight, value - own, flux_b)
                        value = load(vector_lanes, here, place + shifts[k + 2])
                        weight = load(vector_lanes, flat_stencil, start + 2 * size)
                        flux_c = multiply_add(weight, value - own, flux_c)
                        value = load(vector_lanes, here, place + shifts[k + 3])
                        weight = load(vector_lanes, flat_stencil, start + 3 * size)
                        flux_d = multiply_add(weight, value - own, flux_d)
                    stepped = own + ((flux_a + flux_b) + (flux_c + flux_d))
                    new = factor * stepped - load(vector_lanes, there, place)
                    store(there, place, new)
                    so_far = load(vector_lanes, flat_total, place)
                    store(flat_total, place, multiply_add(coefficient, new, so_far))
        current, previous = previous, current


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "contract"})
def _mean_differences(feature, offsets, result):
    """Mean over the channels of |f_i - f_j| for each pair inside the image."""
    height, width, channels = feature.shape
    for k in range(offsets.shape[0]):
        dy, dx = offsets[k]
        for y in range(height - dy):
            for x in range(max(0, -dx), min(width, width - dx)):
                total = np.float32(0)
                for channel in range(channels):
                    total += abs(feature[y, x, channel] - feature[y + dy, x + dx, channel])
                result[k, y, x] = total / np.float32(channels)


def _shift(flat, distance):
    """`flat[i + distance]` at each i, zero where that is outside."""
    result = np.zeros_like(flat)
    if distance > 0:
        result[:-distance] = flat[distance:]
    elif distance < 0:
        result[-distance:] = flat[:distance]
    else:
        return flat
    return result


@functools.lru_cache(maxsize=256)
def _path(dy, dx):
    """Pixels of the line from (0, 0) to (dy, dx), dy >= 0: nearer to it than 1, and in its box; sorted."""
    box = [(y, x) for y in range(dy + 1) for x in range(min(dx, 0), max(dx, 0) + 1)]
    return tuple((y, x) for y, x in box if (dy * x - dx * y) ** 2 < dy**2 + dx**2)


@functools.lru_cache(maxsize=32)
def _path_pieces(radius):
    """For each path, shortest first: shorter paths, shifted, that together cover it.

    Returns:
        List of (path, pieces), a piece being (shift, path); paths as in `_path`.
    """
    plan, known = [], [((0, 0),)]
    for path in sorted((_path(*offset) for offset in neighbour_offsets(radius)), key=len):
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
