"""Dense CRF of one image: its constants, the class that refines, and the cache of Gaussian lattices.

All pairs of pixels are connected; the mean-field update of Krähenbühl & Koltun (NeurIPS 2011, algorithm 1) is

    Q = softmax(-unary + gaussian_strength * G Q + bilateral_strength * B Q)

where G is a Gaussian of the distance of two pixels and B of their distance and colors, both filtered with a
permutohedral lattice and normalized symmetrically. The result equals that of `pydensecrf`.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from numba import njit

from wsss.refine.crf.lattice import Lattice, build_lattice
from wsss.refine.crf.mean_field import mean_field
from wsss.refine.crf.unary import (
    check_label_map,
    fill_label_unary,
    label_energies,
)


@dataclass(frozen=True)
class CRFParameters:
    """Constants of a dense CRF.

    Attributes:
        gaussian_width: standard deviation of the position kernel, pixels, > 0.
        gaussian_strength: its weight (Potts compatibility), >= 0.
        bilateral_width: standard deviation in position of the color kernel, pixels, > 0.
        color_width: its standard deviation in color, gray levels of 0..255, > 0.
        bilateral_strength: its weight, >= 0.
        iterations: mean-field updates, >= 0; 0 returns the softmax of the unary.
        reduction: side of the square of pixels that is treated as one, >= 1; 2 takes a third of the time.
    """

    gaussian_width: float = 3.0
    gaussian_strength: float = 3.0
    bilateral_width: float = 80.0
    color_width: float = 13.0
    bilateral_strength: float = 10.0
    iterations: int = 10
    reduction: int = 1

    def __post_init__(self) -> None:
        for name in ("gaussian_width", "bilateral_width", "color_width"):
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
_PPC = replace(_SEAM, bilateral_width=50.0, color_width=5.0)
CRF_PRESETS: dict[str, CRFParameters] = {
    "seam": _SEAM,  # SEAM and psa, after the CAM; PPC's affinity labels
    "irn": _PPC,  # IRN's labels, from a label map
    "ppc": _PPC,  # PPC's inference, from a label map
    # PPC's test of the segmentation network.
    "ppc_segmentation": replace(_SEAM, bilateral_width=32.0, iterations=1),
    "deeplab": CRFParameters(
        gaussian_width=1.0, bilateral_width=67.0, color_width=3.0, bilateral_strength=4.0
    ),
    # `seam` at half the resolution: argmax 98.7 % the same with 3 labels.
    "fast": replace(_SEAM, reduction=2),
}


class DenseCRF:
    """Dense CRF of one image: sharpens label scores along the color edges of the image.

    One instance refines any number of unaries and may be used from several threads; it starts none.

    Args:
        image: uint8 (height, width, 3), RGB.
        preset: a name in `CRF_PRESETS`, or `CRFParameters`.
        scale: > 0; both spatial widths are divided by it, for an image shown at 1 / scale of the size that
            the constants are meant for.
        **overrides: fields of `CRFParameters` that differ from the preset.

    Raises:
        ValueError: the image is not uint8 RGB or has no pixels, or a parameter is out of range.

    Example:
        >>> import numpy as np
        >>> from wsss.refine import DenseCRF, unary_from_probabilities
        >>> image = np.zeros((20, 30, 3), np.uint8)
        >>> image[:, 15:] = 200  # two colors that meet at column 15
        >>> cam = np.full((20, 30), 0.1, np.float32)
        >>> cam[:, 18:] = 0.9  # the object begins at column 15, the CAM at column 18
        >>> unary = unary_from_probabilities(np.stack([1 - cam, cam], axis=-1))
        >>> labels = DenseCRF(image, "seam").infer(unary).argmax(axis=-1)
        >>> labels[0].tolist().index(1)
        15
    """

    def __init__(
        self,
        image: np.ndarray,
        preset: str | CRFParameters = "seam",
        *,
        scale: float = 1.0,
        **overrides: Any,
    ):
        image = _check_image(image)
        if isinstance(preset, str) and preset not in CRF_PRESETS:
            raise ValueError(f"`preset` must be one of {', '.join(CRF_PRESETS)}. Received: {preset!r}.")
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"`scale` must be a positive number. Received: {scale}.")
        self.parameters = replace(CRF_PRESETS[preset] if isinstance(preset, str) else preset, **overrides)
        self.shape = image.shape[:2]
        step = self.parameters.reduction
        image = image if step == 1 else _mean_of_squares(image, step).round().astype(np.uint8)
        self._inner_shape = image.shape[:2]
        spatial = self.parameters.bilateral_width / (scale * step)
        self._bilateral = build_lattice(
            np.ascontiguousarray(image).reshape(-1, 3),
            image.shape[1],
            [spatial] * 2 + [self.parameters.color_width] * 3,
            self.parameters.bilateral_strength,
        )
        self._gaussian = _GAUSSIAN_LATTICES.get(
            image.shape[0],
            image.shape[1],
            self.parameters.gaussian_width / (scale * step),
            self.parameters.gaussian_strength,
        )

    @overload
    def infer(
        self,
        unaries: np.ndarray,
        iterations: int | None = None,
        copies: Sequence[int] | np.ndarray | None = None,
    ) -> np.ndarray: ...

    @overload
    def infer(
        self,
        unaries: Sequence[np.ndarray],
        iterations: int | None = None,
        copies: Sequence[int] | np.ndarray | None = None,
    ) -> list[np.ndarray]: ...

    def infer(self, unaries, iterations=None, copies=None):
        """Refines label energies by mean-field inference: the probability of each label at each pixel.

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
        results = mean_field(
            self._bilateral, self._gaussian, unaries, _check_copies(copies, labels), int(iterations)
        )
        results = [result.reshape(*self._inner_shape, labels) for result in results]
        if step > 1:
            results = [_spread_squares(result, step, self.shape) for result in results]
        return results if several else results[0]

    def refine_labels(
        self,
        label_map: np.ndarray,
        label_count: int,
        confidence: float = 0.7,
        iterations: int | None = None,
    ) -> np.ndarray:
        """Most probable label of each pixel, with a label map as the unary, as in IRN and PPC.

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
        label_map = check_label_map(label_map, label_count, confidence)
        present, compact = np.unique(label_map, return_inverse=True)
        compact = compact.reshape(label_map.shape)
        absent = label_count - len(present)
        energies = label_energies(label_count, confidence)
        unary = fill_label_unary(compact, len(present) + (absent > 0), energies)
        copies = [1] * len(present) + [absent] * (absent > 0)
        best = self.infer(unary, iterations, copies)[..., : len(present)].argmax(axis=-1)
        return present.astype(np.uint8 if label_count <= 256 else np.int32)[best]


def _check_image(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            "The CRF's image must be uint8 (height, width, 3) with at least one pixel. "
            f"Received: {image.dtype} {image.shape}."
        )
    return image


def _check_copies(copies: Sequence[int] | np.ndarray | None, labels: int) -> np.ndarray:
    copies = np.ones(labels, np.float32) if copies is None else np.asarray(copies, np.float32)
    if copies.shape != (labels,) or not (copies >= 1).all():
        raise ValueError(f"`copies` must be {labels} integers, 1 or more. Received: {copies}.")
    return copies


def _mean_of_squares(array: np.ndarray, side: int) -> np.ndarray:
    """Mean over squares of `side` pixels of (height, width, channels); those at the edges may be cut."""
    height, width, channels = array.shape
    result = np.empty((-(-height // side), -(-width // side), channels), np.float32)
    _average(np.ascontiguousarray(array, np.float32), side, result)
    return result


def _spread_squares(array: np.ndarray, side: int, shape: tuple[int, int]) -> np.ndarray:
    """Bilinear up-sampling by `side`, cut to `shape`: undoes `_mean_of_squares` up to its blur."""
    result = np.empty((*shape, array.shape[2]), np.float32)
    _interpolate(array, side, result)
    return result


@njit(nogil=True, cache=True)
def _average(array, side, result):
    for y in range(result.shape[0]):
        for x in range(result.shape[1]):
            bottom, right = min((y + 1) * side, array.shape[0]), min((x + 1) * side, array.shape[1])
            weight = np.float32(1 / ((bottom - y * side) * (right - x * side)))
            result[y, x] = 0
            for row in range(y * side, bottom):
                for column in range(x * side, right):
                    for channel in range(array.shape[2]):
                        result[y, x, channel] += weight * array[row, column, channel]


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

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._lattices: OrderedDict[tuple, Lattice] = OrderedDict()
        self._lock = threading.Lock()  # held for look-ups only, never while a lattice is built

    def get(self, height: int, width: int, gaussian_width: float, strength: float) -> Lattice:
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

    def renew_lock(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()


_GAUSSIAN_LATTICES = _LatticeCache(max_bytes=48 << 20)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_GAUSSIAN_LATTICES.renew_lock)
