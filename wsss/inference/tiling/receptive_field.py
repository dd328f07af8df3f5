"""What the layers of a network look at, and in which order the rows of their maps can be made."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """What a layer reads along one axis of a map.

    Cell `i` of its output is made of `extent` cells of its input, from cell `stride * i - before` on;
    `before` and `after` zeros lie around the input.
    """

    extent: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0

    @property
    def keeps_size(self):
        """Whether the output is as long as the input."""
        return self.stride == 1 and self.before + self.after == self.extent - 1

    def size_out(self, size):
        """Cells of the output for those of the input."""
        return self.made_of(size, size)

    def made_of(self, cells, size):
        """How many cells of the output can be made of the first `cells` of the `size` cells of the input."""
        zeros = self.after if cells == size else 0
        return max((self.before + cells + zeros - self.extent) // self.stride + 1, 0)

    def first_read(self, cell):
        """First cell of the input that a cell of the output is made of; negative where zeros lie."""
        return cell * self.stride - self.before


ONE_TO_ONE = Window()


def windows_of_convolution(convolution, zero_padding=None):
    """The `Window`s of a convolution along rows and columns.

    Args:
        convolution: `Conv2D` or `DepthwiseConv2D`, channels last.
        zero_padding: `((top, bottom), (left, right))`, in place of what the convolution itself pads with.

    Returns:
        Two; or None where the size of the map decides how it is padded.
    """
    windows = []
    for axis in (0, 1):
        extent = (convolution.kernel_size[axis] - 1) * convolution.dilation_rate[axis] + 1
        stride = convolution.strides[axis]
        if zero_padding is not None:
            zeros = zero_padding[axis]
        elif convolution.padding == "valid" or extent == 1:
            zeros = 0, 0
        elif convolution.padding == "same" and stride == 1:
            zeros = (extent - 1) // 2, extent // 2
        else:
            return None
        windows.append(Window(extent, stride, *zeros))
    return tuple(windows)


class Reading(NamedTuple):
    """What one layer of a network reads.

    Attributes:
        maps: numbers of its inputs. Maps are numbered from 0: first those that the network is given, then the
            output of each layer in turn.
        rows, columns: how it reads them.
    """

    maps: tuple[int, ...]
    rows: Window
    columns: Window


class RowPlan(NamedTuple):
    """Which rows are read, made and forgotten in each of some iterations.

    Where a layer can make no row yet, or has made all, it makes `RowOrder.idle_rows` of zeros that nobody
    reads.

    Attributes:
        strips: int32 (iterations, strips, 2): first row (of those that are held) and number of the rows that
            a layer reads of a map. There is one strip for each pair in `RowOrder.strips_of`.
        zeros: int32 (iterations, strips, 2): rows of zeros above and below.
        made: int32 (iterations, kept maps): rows that are new of each kept map.
        forgotten: int32 (iterations, kept maps): rows of each kept map that no layer reads any more.
    """

    strips: np.ndarray
    zeros: np.ndarray
    made: np.ndarray
    forgotten: np.ndarray


class RowOrder:
    """The order in which the rows of a network's maps are made: of each as many as can be, some at a time.

    Args:
        readings: the layers in the order in which they are called.
        given: how many maps the network is given.
        outputs: numbers of the maps that it gives.
        idle_rows: how many rows a layer makes where there is nothing to make: 0, or 1 for layers that cannot
            make an empty map.

    Attributes:
        strips_of: `(layer, number of a map)` of each strip of rows that must be cut out of a map, where a
            layer does not just read the rows that are new.
        kept: numbers of the maps some rows of which are held from one iteration to the next; the outputs
            with all their rows.
    """

    def __init__(self, readings: Sequence[Reading], given: int, outputs: Sequence[int], *, idle_rows: int):
        self.readings, self.given, self.outputs = tuple(readings), given, tuple(outputs)
        self.idle_rows = idle_rows
        self.fronts = self._fronts()
        self.strips_of = tuple(
            (layer, number)
            for layer, reading in enumerate(self.readings)
            for number in reading.maps
            if not self.abreast(layer, number)
        )
        self._readers = {number: [] for number in self.outputs}
        for layer, number in self.strips_of:
            if number >= given:
                self._readers.setdefault(number, []).append(layer)
        self.kept = tuple(sorted(self._readers))

    def _fronts(self):
        """For each layer the number of its front: maps of one front always have the same rows."""
        fronts = []
        for reading in self.readings:
            before = {
                fronts[number - self.given] if number >= self.given else None for number in reading.maps
            }
            alone = reading.rows == ONE_TO_ONE and len(before) == 1 and None not in before
            fronts.append(before.pop() if alone else max(fronts, default=-1) + 1)
        return tuple(fronts)

    def abreast(self, layer, number):
        """Whether a layer always makes the rows that the map has, so that it reads just the new ones."""
        return number >= self.given and self.fronts[number - self.given] == self.fronts[layer]

    def sizes(self, given: Sequence[tuple[int, int]]):
        """`(height, width)` of all maps for those of the given ones."""
        sizes = list(given)
        for reading in self.readings:
            height, width = sizes[reading.maps[0]]
            sizes.append((reading.rows.size_out(height), reading.columns.size_out(width)))
        return sizes

    def plan(self, heights: Sequence[int], times: int) -> RowPlan:
        """The rows of each iteration.

        Args:
            heights: of all maps.
            times: an iteration makes at most one part in so many of the rows of a map.
        """
        last = {front: heights[self.given + layer] for layer, front in enumerate(self.fronts)}
        stops = dict.fromkeys(last, 0)  # of each front, how many rows are made
        iterations = []
        while stops != last:
            before, stops = stops, self._advance(stops, last, heights, times)
            iterations.append(self._iteration(before, stops, heights))
        return RowPlan(*(np.asarray(part, "int32") for part in zip(*iterations)))

    def _advance(self, stops, last, heights, times):
        after: dict[int, int] = {}
        for layer, reading in enumerate(self.readings):
            front = self.fronts[layer]
            if front in after:
                continue
            limit = stops[front] - (-last[front] // times)
            made = [
                reading.rows.made_of(self._rows(number, after, heights), heights[number])
                for number in reading.maps
            ]
            after[front] = min(limit, *made)
        return after

    def _iteration(self, before: Mapping, after: Mapping, heights):
        strips, zeros = [], []
        for layer, number in self.strips_of:
            rows, front = self.readings[layer].rows, self.fronts[layer]
            first = rows.first_read(before[front])
            new = max(after[front] - before[front], self.idle_rows)
            count = max((new - 1) * rows.stride + rows.extent, 0)
            above = min(max(-first, 0), count)
            stop = min(first + count, self._rows(number, after, heights))
            held = max(stop - max(first, 0), 0)
            strips.append((max(first, 0) - self._first_held(number, before) if held else 0, held))
            zeros.append((above, count - above - held))
        made = [self._rows(n, after, heights) - self._rows(n, before, heights) for n in self.kept]
        forgotten = [self._first_held(n, after) - self._first_held(n, before) for n in self.kept]
        return strips, zeros, made, forgotten

    def _rows(self, number, stops, heights):
        return heights[number] if number < self.given else stops[self.fronts[number - self.given]]

    def _first_held(self, number, stops):
        """The first row of a map that is held once `stops` rows are made."""
        if number < self.given or number in self.outputs:
            return 0
        first = stops[self.fronts[number - self.given]]
        for layer in self._readers[number]:
            first = min(first, self.readings[layer].rows.first_read(stops[self.fronts[layer]]))
        return max(first, 0)
