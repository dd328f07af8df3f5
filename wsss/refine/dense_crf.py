"""Dense CRF: sharpens class scores of one image along its colour edges.

Every pixel talks to every other; the mean-field update of Krähenbühl & Koltun (NeurIPS 2011, algorithm 1) is

    Q = softmax(-unary + gaussian_strength * G Q + bilateral_strength * B Q)

where G is a Gaussian of the distance of two pixels and B of their distance and colours, both filtered with a
permutohedral lattice and normalised symmetrically. The result equals that of `pydensecrf`.

    crf = DenseCRF(image, "seam")
    low, high = crf.infer([unary_from_probabilities(p_low), unary_from_probabilities(p_high)])

Each instance may be used from several threads at once. Nothing here starts a thread of its own.
"""

import functools
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numba.core.extending import register_jitable

from wsss.refine.lattice import add_slice, blur, build_lattice, splat
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


@dataclass(frozen=True)
class CRFParameters:
    """Constants of a dense CRF.

    Attributes:
        gaussian_width: standard deviation of the position kernel, pixels, > 0.
        gaussian_strength: its weight (Potts compatibility), >= 0.
        bilateral_width: standard deviation in position of the colour kernel, pixels, > 0.
        colour_width: its standard deviation in colour, grey levels of 0..255, > 0.
        bilateral_strength: its weight, >= 0.
        iterations: mean-field updates, >= 0; 0 returns the softmax of the unary.
        reduction: side of the square of pixels that is treated as one, >= 1; 2 takes a third of the time.
    """

    gaussian_width: float = 3.0
    gaussian_strength: float = 3.0
    bilateral_width: float = 80.0
    colour_width: float = 13.0
    bilateral_strength: float = 10.0
    iterations: int = 10
    reduction: int = 1

    def __post_init__(self):
        for name in ("gaussian_width", "bilateral_width", "colour_width"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"`{name}` must be a positive number. Received: {getattr(self, name)}.")
        for name in ("gaussian_strength", "bilateral_strength"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"`{name}` must be a number, 0 or more. Received: {getattr(self, name)}.")
        for name, least in (("iterations", 0), ("reduction", 1)):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"`{name}` must be an integer, {least} or more. Received: {value}.")


_SEAM = CRFParameters()
PRESETS = {
    "seam": _SEAM,  # SEAM and psa, after the CAM; PPC's affinity labels
    "irn": replace(_SEAM, bilateral_width=50.0, colour_width=5.0),  # IRN's labels, from a label map
    "ppc": replace(_SEAM, bilateral_width=50.0, colour_width=5.0),  # PPC's inference, from a label map
    "ppc_segmentation": replace(
        _SEAM, bilateral_width=32.0, iterations=1
    ),  # PPC's test of the segmentation network
    "deeplab": replace(
        _SEAM, gaussian_width=1.0, bilateral_width=67.0, colour_width=3.0, bilateral_strength=4.0
    ),
    "fast": replace(
        _SEAM, reduction=2
    ),  # `seam` at half the resolution: argmax 98.7 % the same with 3 labels
}


class DenseCRF:
    """The dense CRF of one image, ready to refine any number of unaries.

    Args:
        image: uint8 (height, width, 3), RGB.
        preset: a name in `PRESETS`, or `CRFParameters`.
        scale: > 0; both spatial widths are divided by it, for an image shown at 1 / scale of the size that
            the constants are meant for.
        **overrides: fields of `CRFParameters` that differ from the preset.

    Raises:
        ValueError: the image is not uint8 RGB or has no pixels, or a parameter is out of range.
    """

    def __init__(self, image, preset="seam", *, scale=1.0, **overrides):
        image = _check_image(image)
        if isinstance(preset, str) and preset not in PRESETS:
            raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}. Received: {preset!r}.")
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"`scale` must be a positive number. Received: {scale}.")
        self.parameters = replace(PRESETS[preset] if isinstance(preset, str) else preset, **overrides)
        self.shape = image.shape[:2]
        step = self.parameters.reduction
        image = image if step == 1 else _mean_of_squares(image, step).round().astype(np.uint8)
        self._inner_shape = image.shape[:2]
        spatial = self.parameters.bilateral_width / (scale * step)
        self._bilateral = build_lattice(
            np.ascontiguousarray(image).reshape(-1, 3),
            image.shape[1],
            [spatial] * 2 + [self.parameters.colour_width] * 3,
            self.parameters.bilateral_strength,
        )
        self._gaussian = _GAUSSIAN_LATTICES.get(
            *image.shape[:2],
            self.parameters.gaussian_width / (scale * step),
            self.parameters.gaussian_strength,
        )

    def infer(self, unaries, iterations=None, copies=None):
        """Probability of each label at each pixel.

        Args:
            unaries: float (height, width, labels), energies (-log probability, lower is likelier; see
                `unary_from_probabilities`), or a list of several, which are refined side by side in little
                more time than one.
            iterations: mean-field updates, >= 0; as in the parameters if not given.
            copies: int (labels,), how many equal labels each entry of the last axis stands for; each >= 1.
                Labels with the same energies everywhere (say, all absent ones) are then computed only once.

        Returns:
            float32 (height, width, labels), or a list of such; sums to 1 over the labels (times `copies`).

        Raises:
            ValueError: a unary is of another size than the image, has no labels, or is not finite.
        """
        several = isinstance(unaries, (list, tuple))
        unaries = [np.asarray(unary, np.float32) for unary in (unaries if several else [unaries])]
        if not unaries:
            raise ValueError("`unaries` must not be an empty list.")
        labels = unaries[0].shape[-1] if unaries[0].ndim == 3 else 0
        for unary in unaries:
            if unary.ndim != 3 or unary.shape[:2] != self.shape or unary.shape[2] != labels or not labels:
                raise ValueError(
                    f"A unary must be {(*self.shape, 'labels')}, as the image and with one label at least, "
                    f"the same in all. Received: {unary.shape}."
                )
        iterations = self.parameters.iterations if iterations is None else iterations
        if not isinstance(iterations, (int, np.integer)) or iterations < 0:
            raise ValueError(f"`iterations` must be an integer, 0 or more. Received: {iterations}.")
        step = self.parameters.reduction
        if step > 1:
            unaries = [_mean_of_squares(unary, step) for unary in unaries]
        results = _mean_field(
            self._bilateral, self._gaussian, unaries, _check_copies(copies, labels), int(iterations)
        )
        results = [result.reshape(*self._inner_shape, labels) for result in results]
        if step > 1:
            results = [_spread_squares(result, step, self.shape) for result in results]
        return results if several else results[0]

    def refine_labels(self, label_map, label_count, confidence=0.7, iterations=None):
        """The most probable label of each pixel when a label map is the evidence, as in IRN and PPC.

        Only the labels that occur are computed; all the others share one.

        Args:
            label_map: integers (height, width) in 0..label_count - 1.
            label_count: >= 1.
            confidence: probability that a pixel's label is right, in (0, 1).
            iterations: as in `infer`.

        Returns:
            uint8 or, for more than 256 labels, int32 (height, width).

        Raises:
            ValueError: as in `unary_from_labels` and `infer`.
        """
        label_map = _check_label_map(label_map, label_count, confidence)
        present, compact = np.unique(label_map, return_inverse=True)
        compact = compact.reshape(label_map.shape)
        absent = label_count - len(present)
        energies = _label_energies(label_count, confidence)
        unary = _fill_label_unary(compact, len(present) + (absent > 0), energies)
        copies = [1] * len(present) + [absent] * (absent > 0)
        best = self.infer(unary, iterations, copies)[..., : len(present)].argmax(axis=-1)
        return present.astype(np.uint8 if label_count <= 256 else np.int32)[best]


def unary_from_probabilities(probabilities, smallest=1e-5):
    """Energies `-log p`, with p not below `smallest`.

    Args:
        probabilities: float (height, width, labels), in [0, 1].
        smallest: > 0, so that no energy is infinite.

    Returns:
        float32 (height, width, labels).

    Raises:
        ValueError: a value is NaN, or outside [0, 1].
    """
    probabilities = np.asarray(probabilities, np.float32)
    if probabilities.size and not (probabilities.min() >= 0 and probabilities.max() <= 1.0001):
        raise ValueError(
            "Probabilities must lie in [0, 1], without NaN. "
            f"Received: {probabilities.min()} to {probabilities.max()}."
        )
    energies = np.clip(probabilities, smallest, 1.0)
    np.log(energies, out=energies)
    return np.negative(energies, out=energies)


def unary_from_labels(label_map, label_count, confidence=0.7):
    """Energies of a label map: its label has probability `confidence`, the others share the rest.

    Args:
        label_map: integers (height, width) in 0..label_count - 1.
        label_count: >= 1.
        confidence: in (0, 1).

    Returns:
        float32 (height, width, label_count).

    Raises:
        ValueError: a label is out of range, there are no labels, or `confidence` is not in (0, 1).
    """
    label_map = _check_label_map(label_map, label_count, confidence)
    return _fill_label_unary(label_map, label_count, _label_energies(label_count, confidence))


def _label_energies(label_count, confidence):
    """Energy of the given label and of every other one."""
    return -np.log(confidence), -np.log((1 - confidence) / max(label_count - 1, 1))


def _fill_label_unary(label_map, channels, energies):
    unary = np.full((*label_map.shape, channels), energies[1], np.float32)
    np.put_along_axis(unary, label_map[..., None].astype(np.intp), energies[0], axis=2)
    return unary


def _check_image(image):
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            "The CRF's image must be uint8 (height, width, 3) with at least one pixel. "
            f"Received: {image.dtype} {image.shape}."
        )
    return image


def _check_label_map(label_map, label_count, confidence):
    label_map = np.asarray(label_map)
    if label_count < 1:
        raise ValueError(f"`label_count` must be 1 or more. Received: {label_count}.")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie between 0 and 1. Received: {confidence}.")
    if label_map.ndim != 2 or not label_map.size or not np.issubdtype(label_map.dtype, np.integer):
        raise ValueError(
            "A label map must be integers (height, width) with at least one pixel. "
            f"Received: {label_map.dtype} {label_map.shape}."
        )
    if label_map.min() < 0 or label_map.max() >= label_count:
        raise ValueError(
            f"Labels must lie in 0..{label_count - 1}. Received: {label_map.min()}..{label_map.max()}."
        )
    return label_map


def _check_copies(copies, labels):
    copies = np.ones(labels, np.float32) if copies is None else np.asarray(copies, np.float32)
    if copies.shape != (labels,) or not (copies >= 1).all():
        raise ValueError(f"`copies` must be {labels} integers, 1 or more. Received: {copies}.")
    return copies


def _mean_of_squares(array, side):
    """Mean over squares of `side` pixels of (height, width, channels); those at the edges may be cut."""
    height, width, channels = array.shape
    result = np.empty((-(-height // side), -(-width // side), channels), np.float32)
    _average(np.ascontiguousarray(array, np.float32), side, result)
    return result


def _spread_squares(array, side, shape):
    """Bilinear up-sampling by `side`, cut to `shape`: undoes `_mean_of_squares` up to its blur."""
    result = np.empty((*shape, array.shape[2]), np.float32)
    _interpolate(array, side, result)
    return result


@njit(nogil=True, cache=True)
def _average(array, side, result):
    for y in range(result.shape[0]):
        for x in range(result.shape[1]):
            bottom, right = min((y + 1) * side, array.shape[0]), min((x + 1) * side, array.shape[1])
            share = np.float32(1 / ((bottom - y * side) * (right - x * side)))
            result[y, x] = 0
            for row in range(y * side, bottom):
                for column in range(x * side, right):
                    for channel in range(array.shape[2]):
                        result[y, x, channel] += share * array[row, column, channel]


@njit(nogil=True, cache=True)
def _interpolate(array, side, result):
    height, width, channels = array.shape
    for y in range(result.shape[0]):
        source = min(max((y + 0.5) / side - 0.5, 0.0), height - 1.0)
        top = int(source)
        bottom, down = min(top + 1, height - 1), np.float32(source - top)
        for x in range(result.shape[1]):
            source = min(max((x + 0.5) / side - 0.5, 0.0), width - 1.0)
            left = int(source)
            right, across = min(left + 1, width - 1), np.float32(source - left)
            up, back = np.float32(1) - down, np.float32(1) - across
            for channel in range(channels):
                above = back * array[top, left, channel] + across * array[top, right, channel]
                below = back * array[bottom, left, channel] + across * array[bottom, right, channel]
                result[y, x, channel] = up * above + down * below


class _LatticeCache:
    """Gaussian lattices by image size, the most recently used ones, up to a number of bytes."""

    def __init__(self, max_bytes):
        self._max_bytes = max_bytes
        self._lattices = OrderedDict()
        self._lock = threading.Lock()  # held for look-ups only, never while a lattice is built

    def get(self, height, width, gaussian_width, strength):
        key = (height, width, gaussian_width, strength)
        with self._lock:
            lattice = self._lattices.get(key)
            if lattice is not None:
                self._lattices.move_to_end(key)
                return lattice
        lattice = build_lattice(
            np.empty((height * width, 0), np.uint8), width, [gaussian_width] * 2, strength
        )
        with self._lock:
            self._lattices[key] = lattice
            while sum(kept.nbytes for kept in self._lattices.values()) > self._max_bytes:
                self._lattices.popitem(last=False)
        return lattice

    def renew_lock(self):
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()


_GAUSSIAN_LATTICES = _LatticeCache(max_bytes=48 << 20)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_GAUSSIAN_LATTICES.renew_lock)


# The layout of the labels of all unaries. A pixel has `planes` vectors of `width` lanes, each plane an array
# of its own. Up to 8 labels: every unary takes `unit` = 1, 2, 4 or 8 neighbouring lanes (a group, over which
# the softmax goes), and several groups share a vector. More: every unary takes `span` whole planes. Lanes
# that are left over hold a probability of zero.
@dataclass(frozen=True)
class _Layout:
    width: int
    planes: int
    unit: int  # lanes of one unary
    span: int  # planes of one unary, 0 where groups share planes


@functools.lru_cache(maxsize=256)
def _choose_layout(labels, unaries):
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


def _mean_field(bilateral, gaussian, unaries, copies, iterations):
    """Refined probabilities (pixels, labels) of each unary (height, width, labels)."""
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
                    blur(vector_lanes, lattice.neighbours, there[k][plane], here[k][plane])
            # After an even number of axes, the bilateral lattice's, the result is where the values were.
            here[0], there[0] = there[0], here[0]
    del here, there, values
    results = [np.empty((pixels, labels), np.float32) for _ in unaries]
    for index, result in enumerate(results):
        _unpack(logits, index, layout.unit, width, result)
    return results


def _aligned(rows, columns):
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
    """Softmax of each `group` neighbours of the flat array, in place; sixteen numbers at a time."""
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
        share = one / all_sum(total)
        for plane in range(values.shape[0]):
            store(values[plane], i, share * load(vector_lanes, values[plane], i))
