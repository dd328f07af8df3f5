"""Receptive fields of layers, and the schedule by which maps are computed in strips of rows."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

ZeroPadding = tuple[tuple[int, int], tuple[int, int]]  # rows, columns: before and after the map


class ReceptiveField(NamedTuple):
    """Input cells that one output cell of a layer depends on, along one axis of a map.

    Output cell `i` depends on `extent` cells of the input, from cell `stride * i - before` on; `before` and
    `after` zeros pad the input.
    """

    extent: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0

    @property
    def keeps_size(self) -> bool:
        """Whether the output is as long as the input."""
        return self.stride == 1 and self.before + self.after == self.extent - 1

    def output_size(self, size: int) -> int:
        """Length of the output for an input of length `size`."""
        return self.available_outputs(size, size)

    def available_outputs(self, cells: int, size: int) -> int:
        """How many output cells can be computed from the first `cells` of an input of length `size`."""
        zeros = self.after if cells == size else 0
        return max((self.before + cells + zeros - self.extent) // self.stride + 1, 0)

    def input_start(self, cell: int) -> int:
        """First input cell in the receptive field of an output cell; negative inside the zero padding."""
        return cell * self.stride - self.before


POINTWISE = ReceptiveField()


def convolution_receptive_fields(
    convolution: Any, zero_padding: ZeroPadding | None = None
) -> tuple[ReceptiveField, ...] | None:
    """The receptive fields of a convolution along rows and columns.

    Args:
        convolution: `Conv2D`, `DepthwiseConv2D` or `FusedConvolution`, channels last.
        zero_padding: `((top, bottom), (left, right))`, in place of the convolution's own padding.

    Returns:
        Two; or None where the padding depends on the size of the map.
    """
    fields = []
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
        fields.append(ReceptiveField(extent, stride, *zeros))
    return tuple(fields)


class LayerInputs(NamedTuple):
    """Which maps one layer of a network reads, and with which receptive fields.

    Attributes:
        maps: numbers of its inputs. Maps are numbered from 0: the inputs of the network, then the output of
            each layer in turn.
        rows, columns: receptive fields along the axes.
    """

    maps: tuple[int, ...]
    rows: ReceptiveField
    columns: ReceptiveField


class StripSchedule(NamedTuple):
    """Which rows are read, computed and evicted in each iteration.

    Where a layer can compute no row yet, or has computed all, it computes `StripScheduler.idle_rows` rows of
    zeros that nothing reads.

    Attributes:
        strips: int32 (iterations, strips, 2): first row (of those that are held) and number of the rows that
            a layer reads of a map. There is one strip for each pair in `StripScheduler.strips_of`.
        zeros: int32 (iterations, strips, 2): rows of zeros above and below.
        computed: int32 (iterations, held maps): new rows of each held map.
        evicted: int32 (iterations, held maps): rows of each held map that no layer reads any more.
    """

    strips: np.ndarray
    zeros: np.ndarray
    computed: np.ndarray
    evicted: np.ndarray


class StripScheduler:
    """Schedules the rows of a network's maps: in each iteration as many of each as can be computed.

    Layers whose outputs always have the same rows form a sync group: a pointwise layer joins the group of its
    inputs, every other layer starts one.

    Args:
        layer_inputs: those of the layers, in the order in which they are called.
        inputs: how many inputs the network has.
        outputs: numbers of the maps that are its outputs.
        idle_rows: how many rows a layer computes where none can be: 0, or 1 for layers that cannot compute an
            empty map.

    Attributes:
        strips_of: `(layer, number of a map)` of each strip of rows that must be cut out of a map, where a
            layer does not just read the new rows.
        held: numbers of the maps of which rows are held from one iteration to the next; the outputs with all
            their rows.
    """

    def __init__(
        self, layer_inputs: Sequence[LayerInputs], inputs: int, outputs: Sequence[int], *, idle_rows: int
    ):
        self.layer_inputs, self.inputs, self.outputs = tuple(layer_inputs), inputs, tuple(outputs)
        self.idle_rows = idle_rows
        self.sync_groups = self._sync_groups()
        self.strips_of = tuple(
            (layer, number)
            for layer, reads in enumerate(self.layer_inputs)
            for number in reads.maps
            if not self.is_synchronized(layer, number)
        )
        self._readers: dict[int, list[int]] = {number: [] for number in self.outputs}
        for layer, number in self.strips_of:
            if number >= inputs:
                self._readers.setdefault(number, []).append(layer)
        self.held = tuple(sorted(self._readers))

    def _sync_groups(self):
        """The number of each layer's sync group."""
        groups: list[int] = []
        for reads in self.layer_inputs:
            before = {
                groups[number - self.inputs] if number >= self.inputs else None for number in reads.maps
            }
            group = before.pop() if reads.rows == POINTWISE and len(before) == 1 else None
            groups.append(max(groups, default=-1) + 1 if group is None else group)
        return tuple(groups)

    def is_synchronized(self, layer: int, number: int) -> bool:
        """Whether a layer always has the rows that the map has, so that it reads just the new ones."""
        return number >= self.inputs and self.sync_groups[number - self.inputs] == self.sync_groups[layer]

    def sizes(self, inputs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """`(height, width)` of all maps for those of the inputs."""
        sizes = list(inputs)
        for reads in self.layer_inputs:
            height, width = sizes[reads.maps[0]]
            sizes.append((reads.rows.output_size(height), reads.columns.output_size(width)))
        return sizes

    def schedule(self, heights: Sequence[int], strips: int) -> StripSchedule:
        """The rows of each iteration.

        Args:
            heights: of all maps.
            strips: an iteration computes at most one part in so many of the rows of a map.
        """
        total = {group: heights[self.inputs + layer] for layer, group in enumerate(self.sync_groups)}
        stops = dict.fromkeys(total, 0)  # of each sync group, how many rows are computed
        iterations = []
        while stops != total:
            before, stops = stops, self._advance(stops, total, heights, strips)
            iterations.append(self._iteration(before, stops, heights))
        return StripSchedule(*(np.asarray(part, "int32") for part in zip(*iterations)))

    def _advance(self, stops, total, heights, strips):
        after: dict[int, int] = {}
        for layer, reads in enumerate(self.layer_inputs):
            group = self.sync_groups[layer]
            if group in after:
                continue
            limit = stops[group] - (-total[group] // strips)
            available = [
                reads.rows.available_outputs(self._rows(number, after, heights), heights[number])
                for number in reads.maps
            ]
            after[group] = min(limit, *available)
        return after

    def _iteration(self, before: Mapping, after: Mapping, heights):
        strips, zeros = [], []
        for layer, number in self.strips_of:
            rows, group = self.layer_inputs[layer].rows, self.sync_groups[layer]
            first = rows.input_start(before[group])
            new = max(after[group] - before[group], self.idle_rows)
            count = max((new - 1) * rows.stride + rows.extent, 0)
            above = min(max(-first, 0), count)
            stop = min(first + count, self._rows(number, after, heights))
            held = max(stop - max(first, 0), 0)
            strips.append((max(first, 0) - self._first_held(number, before) if held else 0, held))
            zeros.append((above, count - above - held))
        computed = [self._rows(n, after, heights) - self._rows(n, before, heights) for n in self.held]
        evicted = [self._first_held(n, after) - self._first_held(n, before) for n in self.held]
        return strips, zeros, computed, evicted

    def _rows(self, number, stops, heights):
        return heights[number] if number < self.inputs else stops[self.sync_groups[number - self.inputs]]

    def _first_held(self, number, stops):
        """The first row of a map that is held once `stops` rows are computed."""
        if number < self.inputs or number in self.outputs:
            return 0
        first = stops[self.sync_groups[number - self.inputs]]
        for layer in self._readers[number]:
            reads = self.layer_inputs[layer]
            first = min(first, reads.rows.input_start(stops[self.sync_groups[layer]]))
        return max(first, 0)
