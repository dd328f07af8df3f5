"""COCO's run-length encoding of a region of a mask, in NumPy."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

_MOST_CHARACTERS = 7  # of 5 bits each: a difference of two runs in an image of up to 2^33 pixels


class Region(NamedTuple):
    """The pixels of one class, or of one connected component of it, cut out of a mask.

    Attributes:
        number: of the class in the mask, 1..K or 255.
        inside: bool (height, width), of the bounding box.
        top, left: place of the bounding box in the mask, in pixels.
    """

    number: int
    inside: np.ndarray
    top: int
    left: int

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.inside))

    @property
    def box(self) -> list[int]:
        """Left, top, width and height in pixels."""
        height, width = self.inside.shape
        return [self.left, self.top, width, height]


def regions_of(mask: np.ndarray, components: bool = False) -> Iterator[Region]:
    """Yields the regions of a mask, by ascending number; the background is none.

    Args:
        mask: uint8 (height, width).
        components: whether each connected component of a class (pixels that share an edge) is a region by
            itself; by default a class is one region.
    """
    for index, box in enumerate(ndimage.find_objects(mask)):
        if box is None:
            continue
        inside = mask[box] == index + 1
        if not components:
            yield Region(index + 1, inside, box[0].start, box[1].start)
            continue
        numbered, _ = ndimage.label(inside)
        for component, (rows, columns) in enumerate(ndimage.find_objects(numbered), start=1):
            part = numbered[rows, columns] == component
            yield Region(index + 1, part, box[0].start + rows.start, box[1].start + columns.start)


def encode_run_lengths(region: Region, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed run lengths of a region.

    Args:
        region: `Region`.
        height, width: of the whole mask, in pixels.

    Returns:
        dict of `size` (height, width) and `counts`, the same string as pycocotools writes.

    Source:
        The format of pycocotools (`rleToString`): runs outside and inside in turn down the columns, from the
        fourth on as the difference to the one before last, 5 bits a character.
    """
    return {"size": [height, width], "counts": _compress(run_lengths(region, height, width))}


def run_lengths(region: Region, height: int, width: int) -> np.ndarray:
    """Lengths of the runs of pixels outside and inside a region in turn, down the columns of a mask.

    Args:
        region: `Region`.
        height, width: of the whole mask, in pixels.

    Returns:
        int64 (runs,); their sum is `height * width`.
    """
    rows, columns = region.inside.shape
    framed = np.zeros((columns, rows + 2), bool)
    framed[:, 1:-1] = region.inside.T
    column, row = np.nonzero(framed[:, 1:] != framed[:, :-1])  # where runs begin and end, in turn
    places = (region.left + column) * height + region.top + row
    starts, ends = places[::2], places[1::2]
    parted = starts[1:] != ends[:-1]  # a run may go on at the top of the next column
    bounds = np.empty(2 * (int(parted.sum()) + bool(starts.size)), np.int64)
    if starts.size:
        bounds[::2] = starts[np.r_[True, parted]]
        bounds[1::2] = ends[np.r_[parted, True]]
    total = height * width
    if not bounds.size or bounds[-1] != total:
        bounds = np.append(bounds, total)
    return np.diff(bounds, prepend=0)


def _compress(counts):
    """COCO's string of numbers: 5 bits a character, low ones first, bit 6 set where more follow."""
    values = counts.copy()
    values[3:] -= counts[1:-2]
    limits = 16 << (5 * np.arange(_MOST_CHARACTERS - 1, dtype=np.int64))
    magnitudes = np.where(values < 0, -values - 1, values)  # the sign takes a bit
    following = magnitudes[:, None] >= limits  # (values, characters - 1): whether another character follows
    shifts = 5 * np.arange(_MOST_CHARACTERS, dtype=np.int64)
    characters = (values[:, None] >> shifts) & 0x1F
    characters[:, :-1] |= np.where(following, 0x20, 0)
    written = np.c_[np.ones(len(values), bool), following]
    return (characters[written] + 48).astype(np.uint8).tobytes().decode("ascii")
