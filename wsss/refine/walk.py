"""Random walk that spreads class scores to pixels with a high affinity, without ever forming its matrix.

AffinityNet and IRN multiply the scores by `T ** steps`, where T is the matrix of the affinities of all pixel
pairs, raised to a power and normalized to columns that sum to one; they square it again and again, which
takes the cube of the number of pixels. Here

- T is a stencil: only pairs nearer than `radius` have an affinity; a step is a weighted sum of shifts;
- a step is written as a flux, `v += sum_i w_i (v_i - v) / column sum`, which does not drift in float32;
- T is similar to a symmetric matrix with eigenvalues in [-1, 1], so `T ** steps` is a sum of Chebyshev
  polynomials of T with binomial weights, of which a few times the root of `steps` matter: 78 products for 256
  steps.

Sources: Ahn & Kwak, CVPR 2018, section 3.3; Ahn, Cho & Kwak, CVPR 2019, section 5.2.

    walked = random_walk(scores, pair_affinity(pairs), beta=8, steps=2**6)               # AffinityNet
    walked = random_walk(scores * (1 - edge[..., None]), edge_affinity(edge), beta=10)   # IRN
"""

import functools
import math

import numpy as np
from numba import njit

from wsss.refine.affinity import Affinity
from wsss.refine.simd import broadcast, lanes, load, multiply_add, store


def random_walk(
    scores: np.ndarray,
    affinity: Affinity,
    beta: float = 8.0,
    steps: int = 256,
    tolerance: float = 1e-6,
) -> np.ndarray:
    """Class scores spread over pixels of high affinity: `scores @ T ** steps`, T the transition matrix.

    T holds the affinities to the power of `beta`, each column normalized to a sum of one.

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

    Example:
        >>> import numpy as np
        >>> from wsss.refine import edge_affinity, random_walk
        >>> edge = np.zeros((8, 10), np.float32)
        >>> edge[:, 5] = 1  # a class boundary
        >>> scores = np.zeros((8, 10, 1), np.float32)
        >>> scores[4, 2] = 1  # the CAM found one pixel of the object
        >>> walked = random_walk(scores, edge_affinity(edge), beta=10, steps=256)
        >>> (walked[0, :, 0] > 0.01).astype(int)  # the score has spread as far as the boundary
        array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    """
    scores = np.asarray(scores, np.float32)
    offsets, weights = np.asarray(affinity.offsets), np.asarray(affinity.weights, np.float32)
    _check_walk(scores, offsets, weights, beta, steps, tolerance)
    height, width, classes = scores.shape
    powered = _power(weights, beta)
    columns = -(-width // _LANES)
    neighbors = -(-2 * len(offsets) // 4) * 4  # the loop takes four at a time; spare ones weigh nothing
    stencil = np.zeros((height, columns, neighbors, _LANES), np.float32)
    _normalize(powered, offsets, stencil)
    margin = int(np.abs(offsets).max(initial=0))
    stride = columns * _LANES + 2 * margin
    shifts = np.zeros(neighbors, np.int64)
    shifts[: 2 * len(offsets)] = np.concatenate([offsets, -offsets]) @ np.array([stride, 1])
    current = np.zeros((classes, height + 2 * margin, stride), np.float32)
    inside = (slice(None), slice(margin, margin + height), slice(margin, margin + width))
    current[inside] = np.moveaxis(scores, 2, 0)
    coefficients = _chebyshev_coefficients(int(steps), float(tolerance))
    total = np.float32(coefficients[0]) * current
    _expand(lanes(_LANES), stencil, shifts, margin, current, np.zeros_like(current), total, coefficients)
    return np.ascontiguousarray(np.moveaxis(total[inside], 0, 2))


_LANES = 16


def _check_walk(
    scores: np.ndarray,
    offsets: np.ndarray,
    weights: np.ndarray,
    beta: float,
    steps: int,
    tolerance: float,
) -> None:
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


def _power(weights: np.ndarray, beta: float) -> np.ndarray:
    """`weights ** beta`; whole exponents by multiplication, which is much faster."""
    if beta != int(beta) or beta > 1024:
        return weights ** np.float32(beta)
    square, exponent = weights, int(beta)
    while not exponent & 1:
        square, exponent = square * square, exponent >> 1
    result = square
    while exponent := exponent >> 1:
        square = square * square
        if exponent & 1:
            result = result * square
    return result


@functools.lru_cache(maxsize=64)
def _chebyshev_coefficients(steps: int, tolerance: float) -> np.ndarray:
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
def _normalize(weights, offsets, stencil):
    """Write the weights, divided by the column sums, to `stencil` (height, columns, 2 pairs, lanes).

    There all weights of a run of pixels are neighbors: first those towards the offsets, then those against
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
                            probability = weight / sums[y + dy, x + dx]
                            stencil[y + dy, (x + dx) // size, pairs + k, (x + dx) % size] = probability
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
    height, columns, neighbors = stencil.shape[:3]
    classes, _, stride = current.shape
    flat_stencil = stencil.reshape(-1)
    flat_total = total.reshape(-1)
    for degree in range(1, coefficients.size):
        here, there = current.reshape(-1), previous.reshape(-1)
        factor = broadcast(vector_lanes, np.float32(1 if degree == 1 else 2))
        coefficient = broadcast(vector_lanes, coefficients[degree])
        for y in range(height):
            for column in range(columns):
                first = (y * columns + column) * neighbors * size
                for label in range(classes):
                    place = (label * (height + 2 * margin) + margin + y) * stride + margin + column * size
                    own = load(vector_lanes, here, place)
                    # Four sums, so that an addition need not wait for the one before.
                    flux_a = flux_b = flux_c = flux_d = broadcast(vector_lanes, np.float32(0))
                    for k in range(0, neighbors, 4):
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
