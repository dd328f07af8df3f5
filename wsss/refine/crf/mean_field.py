"""Mean-field updates of a dense CRF on its two lattices, several unaries side by side: the hot loops."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numba.core.extending import register_jitable

from wsss.refine.crf.lattice import Lattice, add_slice, blur, splat
from wsss.refine.simd import (
    all_maximum,
    all_sum,
    broadcast,
    exp,
    group_maximum,
    group_sum,
    lanes,
    load,
    maximum,
    multiply_add,
    store,
)


# The layout of the labels of all unaries. A pixel has `planes` vectors of `width` lanes, each plane an array
# of its own. Up to 8 labels: every unary takes `unit` = 1, 2, 4 or 8 neighboring lanes (a group, over which
# the softmax goes), and several groups share a vector. More: every unary takes `span` whole planes. Lanes
# that are left over hold a probability of zero.
@dataclass(frozen=True)
class _Layout:
    width: int
    planes: int
    unit: int  # lanes of one unary
    span: int  # planes of one unary, 0 where groups share planes


@functools.lru_cache(maxsize=256)
def _choose_layout(labels: int, unaries: int) -> _Layout:
    if labels <= 8:
        unit = next(size for size in (1, 2, 4, 8) if size >= labels)
        width = next((size for size in (4, 8, 16, 24) if size >= unit * unaries), 24)
        return _Layout(width, -(-unit * unaries // width), unit, 0)
    width = min(-(-labels // 8) * 8, 24)
    span = -(-labels // width)
    return _Layout(width, span * unaries, span * width, span)


_BLOCK = 256  # pixels between two changes of step; a multiple of 16. Their vectors stay in the nearest cache
_NOTHING = np.float32(-1e30)  # logit of a lane without a label
_SIX, _THREE = lanes(6), lanes(3)  # vertices of a pixel in the bilateral and the Gaussian lattice
_SIXTEEN = lanes(16)


def mean_field(
    bilateral: Lattice,
    gaussian: Lattice,
    unaries: Sequence[np.ndarray],
    copies: np.ndarray,
    iterations: int,
) -> list[np.ndarray]:
    """Mean-field inference of a dense CRF: the refined label probabilities of each unary.

    Args:
        bilateral, gaussian: lattices of the image, from `build_lattice`.
        unaries: list of float32 (height, width, labels), energies.
        copies: float32 (labels,), how many equal labels each one stands for.
        iterations: number of updates, >= 0.

    Returns:
        List of float32 (pixels, labels), in the order of the unaries.

    Raises:
        ValueError: a unary is not finite.
    """
    pixels, labels = bilateral.offsets.shape[0], unaries[0].shape[2]
    layout = _choose_layout(labels, len(unaries))
    width, planes = layout.width, layout.planes
    logits = _aligned(planes, pixels * width)
    multiplicities = np.zeros(planes * width, np.float32)
    for index, unary in enumerate(unaries):
        multiplicities[index * layout.unit :][:labels] = copies
        if not _pack(np.ascontiguousarray(unary).reshape(pixels, labels), logits, index, layout.unit, width):
            raise ValueError("A unary must be finite. Received: NaN or infinity.")
    used = len(unaries) * layout.unit - (planes - 1) * width  # lanes of the last plane
    logits.reshape(planes, pixels, width)[-1, :, used:] = _NOTHING
    multiplicities = np.tile(multiplicities.reshape(planes, width), _BLOCK)
    block = np.zeros((planes, _BLOCK * width), np.float32)
    here = [_aligned(planes, (lattice.vertices + 1) * width) for lattice in (bilateral, gaussian)]
    there = [_aligned(*values.shape) for values in here]
    vector_lanes = lanes(width)
    for iteration in range(iterations + 1):
        first, last = iteration == 0, iteration == iterations
        for values in there:
            values[:] = 0
        _update(
            vector_lanes, bilateral, gaussian, logits, multiplicities, layout.unit, layout.span, block,
            *here, *there, not first, not last,
        )  # fmt: skip
        if not last:
            for k, lattice in enumerate((bilateral, gaussian)):
                here[k][:, -width:] = 0
                for plane in range(planes):
                    blur(vector_lanes, lattice.neighbors, there[k][plane], here[k][plane])
            # After an even number of axes, the bilateral lattice's, the result is where the values were.
            here[0], there[0] = there[0], here[0]
    del here, there, values
    results = [np.empty((pixels, labels), np.float32) for _ in unaries]
    for index, result in enumerate(results):
        _unpack(logits, index, layout.unit, width, result)
    return results


def _aligned(rows: int, columns: int) -> np.ndarray:
    """Float32 (rows, columns) that begins at a multiple of 64 bytes: no vector crosses a cache line."""
    memory = np.empty(rows * columns + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    return memory[start : start + rows * columns].reshape(rows, columns)


@njit(nogil=True, cache=True)
def _pack(unary, logits, index, unit, width):
    """Write minus the energies (pixels, labels) to the lanes of unary `index`; False if one is not finite."""
    finite = True
    pixels, labels = unary.shape
    for first in range(0, unit, width):  # the label that begins in each plane
        plane, lane = divmod(index * unit + first, width)
        for pixel in range(pixels):
            for k in range(min(unit, width)):
                value = _NOTHING
                if first + k < labels:
                    value = -unary[pixel, first + k]
                    finite &= np.isfinite(value)
                logits[plane, pixel * width + lane + k] = value
    return finite


@njit(nogil=True, cache=True)
def _unpack(logits, index, unit, width, result):
    """Read the lanes of unary `index` into `result` (pixels, labels)."""
    pixels, labels = result.shape
    for first in range(0, unit, width):
        plane, lane = divmod(index * unit + first, width)
        for pixel in range(pixels):
            for k in range(min(labels - first, width)):
                result[pixel, first + k] = logits[plane, pixel * width + lane + k]


@njit(nogil=True, cache=True)
def _update(
    vector_lanes, bilateral, gaussian, logits, copies, unit, span, block,
    bilateral_in, gaussian_in, bilateral_out, gaussian_out, slicing, splatting,
):  # fmt: skip
    """One pass over the pixels: slice the blurred lattices, softmax, splat the new probabilities.

    The three are done one after another for a small block of pixels, whose values never leave the cache. The
    first pass has nothing to slice (`slicing` is False); the last one puts the probabilities in place of the
    logits instead of splatting them.
    """
    width = len(vector_lanes)
    pixels = bilateral.offsets.shape[0]
    planes = logits.shape[0]
    for start in range(0, pixels, _BLOCK):
        count = min(_BLOCK, pixels - start)
        for plane in range(planes):
            _collect(
                vector_lanes, bilateral, gaussian, logits[plane], start, count,
                bilateral_in[plane], gaussian_in[plane], slicing, block[plane],
            )  # fmt: skip
        if span:
            for plane in range(0, planes, span):
                _softmax_spans(vector_lanes, block[plane : plane + span], count, copies[plane : plane + span])
        else:
            for plane in range(planes):
                _softmax_groups(block[plane], count * width, unit, copies[plane])
        for plane in range(planes):
            _spread(
                vector_lanes, bilateral, gaussian, block[plane], start, count,
                bilateral_out[plane], gaussian_out[plane], splatting, logits[plane],
            )  # fmt: skip


@register_jitable
def _collect(
    vector_lanes, bilateral, gaussian, logits, start, count, bilateral_values, gaussian_values, slicing, block
):
    """Into `block`: the logits of `count` pixels, plus their slices of both lattices."""
    width = len(vector_lanes)
    for i in range(count):
        vector = load(vector_lanes, logits, (start + i) * width)
        if slicing:
            vector = add_slice(vector_lanes, _SIX, bilateral, start + i, bilateral_values, vector)
            vector = add_slice(vector_lanes, _THREE, gaussian, start + i, gaussian_values, vector)
        store(block, i * width, vector)


@register_jitable
def _spread(
    vector_lanes,
    bilateral,
    gaussian,
    block,
    start,
    count,
    bilateral_values,
    gaussian_values,
    splatting,
    logits,
):
    """Splat the probabilities of `count` pixels onto both lattices, or put them where the logits were."""
    width = len(vector_lanes)
    for i in range(count):
        vector = load(vector_lanes, block, i * width)
        if splatting:
            splat(vector_lanes, _SIX, bilateral, start + i, vector, bilateral_values)
            splat(vector_lanes, _THREE, gaussian, start + i, vector, gaussian_values)
        else:
            store(logits, (start + i) * width, vector)


@register_jitable
def _softmax_groups(values, count, group, copies):
    """Softmax of each `group` neighbors of the flat array, in place; sixteen numbers at a time."""
    for i in range(0, count, 16):
        vector = load(_SIXTEEN, values, i)
        vector = exp(vector - group_maximum(vector, group))
        store(values, i, vector / group_sum(vector * load(_SIXTEEN, copies, i), group))


@register_jitable
def _softmax_spans(vector_lanes, values, count, copies):
    """Softmax over all planes of each pixel, in place."""
    width = len(vector_lanes)
    one = broadcast(vector_lanes, np.float32(1))
    if values.shape[0] == 1:
        for i in range(0, count * width, width):
            vector = load(vector_lanes, values[0], i)
            vector = exp(vector - all_maximum(vector))
            total = all_sum(vector * load(vector_lanes, copies[0], 0))
            store(values[0], i, vector * (one / total))
        return
    for i in range(0, count * width, width):
        top = load(vector_lanes, values[0], i)
        for plane in range(1, values.shape[0]):
            top = maximum(top, load(vector_lanes, values[plane], i))
        top = all_maximum(top)
        total = broadcast(vector_lanes, np.float32(0))
        for plane in range(values.shape[0]):
            vector = exp(load(vector_lanes, values[plane], i) - top)
            store(values[plane], i, vector)
            total = multiply_add(vector, load(vector_lanes, copies[plane], 0), total)
        scale = one / all_sum(total)
        for plane in range(values.shape[0]):
            store(values[plane], i, scale * load(vector_lanes, values[plane], i))
