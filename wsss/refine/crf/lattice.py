"""Permutohedral lattice: Gaussian filtering of scattered points in a few dimensions, in linear time.

A point of `dimensions` features is spread over the `dimensions + 1` vertices of the simplex that it lies in
(splat), the vertices are blurred along each axis of the lattice, and the point reads its vertices back
(slice). `build_lattice` finds the vertices; the compiled pieces that filter are `add_slice`, `splat`, `blur`.

Source: Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010,
section 3; normalized as in Krähenbühl & Koltun, "Efficient Inference in Fully Connected CRFs", 2011.

What makes it fast: a vertex is one int64, so that the hash table compares numbers; the six keys of a simplex
follow from one another by an addition; the normalization is folded into the splat weights; all memory is
allocated outside the compiled code.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit, types
from numba.core.extending import register_jitable

from wsss.refine.simd import broadcast, lanes, less, less_equal, load, multiply_add, nearest_integer, store

_EIGHT = lanes(8)
_BLOCK = 4096  # pixels whose features are in memory at a time; a multiple of 8
_FREE = -1  # in the hash table: no vertex here


class Lattice(NamedTuple):
    """Lattice of the pixels of an image; the filter's strength and normalization are in the weights.

    Attributes:
        offsets: int32 (pixels, dimensions + 1), the vertices of each pixel.
        weights: float32 (pixels, dimensions + 1), their weights for splat and for slice.
        neighbors: int32 (dimensions + 1, vertices, 2), the two neighbors along each axis; `vertices`, a row
            of zeros in the filtered values, where there is none.
    """

    offsets: np.ndarray
    weights: np.ndarray
    neighbors: np.ndarray

    @property
    def vertices(self) -> int:
        """Number of vertices."""
        return self.neighbors.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory that the lattice takes, bytes."""
        return self.offsets.nbytes + self.weights.nbytes + self.neighbors.nbytes


class _Grid(NamedTuple):
    """Numbering of the vertices, integers in a box: the sum of (coordinate - low) x stride.

    Attributes:
        lows, strides: int, one an axis.
        steps: int64 (dimensions + 1,), from a vertex's number to that of its neighbor along each axis.
    """

    lows: tuple
    strides: tuple
    steps: np.ndarray


def build_lattice(pixels: np.ndarray, width: int, widths: Sequence[float], strength: float) -> Lattice:
    """Lattice of an image whose kernel is `strength exp(-|f_i - f_j|^2 / 2)`, symmetrically normalized.

    The feature f of a pixel is (x, y, channels...) divided by `widths`.

    Args:
        pixels: uint8 (height * width, channels); no channels for a kernel of the position alone.
        width: of the image.
        widths: of the kernel, pixels for x and y, gray levels for the channels, each > 0.
        strength: factor of the normalized kernel, >= 0.

    Returns:
        The `Lattice`.

    Raises:
        ValueError: the kernel is so narrow for the image that its vertices cannot be numbered in 63 bits.
    """
    count, dimensions = len(pixels), 2 + pixels.shape[1]
    kernel_widths = np.asarray(widths, np.float32)
    scale = _elevation_scale(dimensions)
    grid = _number_vertices((width, -(-count // width), *[256] * pixels.shape[1]), kernel_widths, scale)
    offsets = np.empty((count, dimensions + 1), np.int32)
    weights = np.empty((count, dimensions + 1), np.float32)
    features = np.zeros((dimensions, _BLOCK), np.float32)
    scratch = np.zeros((4, (dimensions + 1) * 8), np.float32)
    table = _Table.empty(max(10, int(count / 2).bit_length()))
    vertices = 0
    for first in range(0, count, _BLOCK):
        last = min(count, first + _BLOCK)
        _write_features(pixels, width, first, last, kernel_widths, features)
        done = 0
        while done < last - first:
            done, vertices = _embed(
                features,
                done,
                last - first,
                scale,
                grid,
                scratch,
                table,
                vertices,
                offsets[first:last],
                weights[first:last],
            )
            if done < last - first:
                table = _grow(table, vertices)
    neighbors = np.full((dimensions + 1, vertices, 2), vertices, np.int32)
    _find_neighbors(table, vertices, grid, neighbors)
    mass = np.zeros((2, vertices + 1), np.float32)
    mass[0, :vertices] = table.mass[:vertices]
    # The slice of a lattice filter is times 1 / (1 + 2^-d): section 3.3 of Adams et al.; constant in the end.
    gain = 1 / (1 + 2.0**-dimensions)
    _normalize(offsets, weights, _blur_mass(neighbors, mass[0], mass[1]), gain, math.sqrt(gain * strength))
    return Lattice(offsets, weights, neighbors)


def _elevation_scale(dimensions: int) -> tuple[np.float32, ...]:
    """Factors that make the blur's variance one feature unit (Adams et al. 2010, section 3.1), as a tuple."""
    deviation = float(np.float32(math.sqrt(2 / 3) * (dimensions + 1)))
    return tuple(np.float32(deviation / math.sqrt((i + 1) * (i + 2))) for i in range(dimensions))


def _number_vertices(sizes: Sequence[int], widths: np.ndarray, scale: tuple[np.float32, ...]) -> _Grid:
    """The box that holds all vertices of features below `sizes / widths`, and the numbering in it."""
    reach = [float(size) / float(width) * float(s) for size, width, s in zip(sizes, widths, scale)]
    margin = 3 * (len(scale) + 1)  # a vertex is less than one simplex from its point, a neighbor one further
    lows, strides, total = [], [], 1
    for axis in range(len(scale)):
        low = -axis * reach[axis - 1] if axis else 0.0
        high = sum(reach[axis:])
        lows.append(math.floor(low) - margin)
        strides.append(total)
        total *= math.ceil(high) + margin - lows[-1]
    if total >= 2**63:
        raise ValueError(
            "The CRF's kernel is too narrow for an image of this size. "
            f"Received: widths {[float(width) for width in widths]}. Use wider ones."
        )
    # A neighbor is 1 more on every coordinate, and d + 1 less on one. The last coordinate is not part of the
    # number: it is minus the sum of the others.
    steps = sum(strides) - (len(scale) + 1) * np.array([*strides, 0], np.int64)
    return _Grid(tuple(lows), tuple(strides), steps)


class _Table(NamedTuple):
    """Hash table from a vertex's number to its index, open addressing, at most half full."""

    keys: np.ndarray  # int64 (slots,), undefined where free
    indices: np.ndarray  # int32 (slots,), _FREE or the index of the vertex
    shift: np.ndarray  # int64 (1,): 64 - log2(slots), what is dropped from the 64-bit product
    vertex_keys: np.ndarray  # int64 (slots / 2,): the key of every vertex
    mass: np.ndarray  # float32 (slots / 2,): the sum of the weights that were splatted on it

    @classmethod
    def empty(cls, bits: int) -> "_Table":
        slots = 1 << bits
        return cls(
            np.empty(slots, np.int64),
            np.full(slots, _FREE, np.int32),
            np.array([64 - bits]),
            np.empty(slots // 2, np.int64),
            np.empty(slots // 2, np.float32),
        )


def _grow(table: _Table, vertices: int) -> _Table:
    """A table of twice the size with the same vertices."""
    larger = _Table.empty(65 - int(table.shift[0]))
    larger.vertex_keys[:vertices] = table.vertex_keys[:vertices]
    larger.mass[:vertices] = table.mass[:vertices]
    _insert_all(larger, vertices)
    return larger


@register_jitable
def _slot(table, key):
    """Where `key` is in the table, or the free slot where it belongs. Fibonacci hashing, linear probing."""
    mask = table.indices.size - 1
    product = types.uint64(key) * types.uint64(0x9E3779B97F4A7C15)
    slot = types.intp(product >> types.uint64(table.shift[0]))
    while table.indices[slot] != _FREE and table.keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@njit(nogil=True, cache=True)
def _insert_all(table, vertices):
    for vertex in range(vertices):
        slot = _slot(table, table.vertex_keys[vertex])
        table.keys[slot] = table.vertex_keys[vertex]
        table.indices[slot] = vertex


@njit(nogil=True, cache=True)
def _write_features(pixels, width, first, last, widths, features):
    """Columns 0.. of `features` (dimensions, block): those of the pixels first..last - 1."""
    y = first // width
    x = first - y * width
    for i in range(last - first):
        features[0, i] = np.float32(x) / widths[0]
        features[1, i] = np.float32(y) / widths[1]
        for channel in range(pixels.shape[1]):
            features[2 + channel, i] = np.float32(pixels[first + i, channel]) / widths[2 + channel]
        x += 1
        if x == width:
            x = 0
            y += 1


@register_jitable
def _locate_eight(features, start, scale, elevated, base, rank):
    """The simplex of eight points: its zero-colored vertex `base`, the `rank` of the remainders.

    `elevated` holds the points in the lattice's plane, then their remainders divided by d + 1. All three are
    ((d + 1) * 8,) with the eight points side by side. The order of the float operations is pydensecrf's, so
    that no point falls into another simplex.
    """
    d = len(scale)
    stride = features.shape[1]
    flat = features.reshape(-1)
    size = broadcast(_EIGHT, np.float32(d + 1))
    inverse = broadcast(_EIGHT, np.float32(1 / (d + 1)))
    one = broadcast(_EIGHT, np.float32(1))
    zero = broadcast(_EIGHT, np.float32(0))
    total = zero
    for axis in range(d, 0, -1):
        scaled = load(_EIGHT, flat, (axis - 1) * stride + start) * broadcast(_EIGHT, scale[axis - 1])
        store(elevated, axis * 8, total - broadcast(_EIGHT, np.float32(axis)) * scaled)
        total = total + scaled
    store(elevated, 0, total)
    surplus = zero  # how far the rounded point is off the plane, in steps of d + 1
    for axis in range(d + 1):
        rounded = nearest_integer(inverse * load(_EIGHT, elevated, axis * 8))
        store(base, axis * 8, rounded * size)
        surplus = surplus + rounded
    for axis in range(d + 1):
        store(rank, axis * 8, surplus)
    for axis in range(d + 1):
        remainder = load(_EIGHT, elevated, axis * 8) - load(_EIGHT, base, axis * 8)
        own = load(_EIGHT, rank, axis * 8)
        for other in range(axis + 1, d + 1):
            smaller = less(remainder, load(_EIGHT, elevated, other * 8) - load(_EIGHT, base, other * 8))
            own = own + smaller
            store(rank, other * 8, load(_EIGHT, rank, other * 8) + (one - smaller))
        # A rank outside 0..d: the coordinate was rounded to the wrong side; back to the plane.
        move = size * (less(own, zero) - less_equal(size, own))
        corner = load(_EIGHT, base, axis * 8) + move
        store(rank, axis * 8, own + move)
        store(base, axis * 8, corner)
        # Remainders are read again only as `other`, later axes, so this one may be overwritten.
        store(elevated, axis * 8, (load(_EIGHT, elevated, axis * 8) - corner) * inverse)


@njit(nogil=True, cache=True)
def _embed(features, first, last, scale, grid, scratch, table, vertices, offsets, weights):
    """Vertices and barycentric weights of the points first..last - 1; new vertices enter the table.

    Returns:
        The point that is next, short of `last` where the table must grow first, and the number of vertices.
    """
    d = len(scale)
    elevated, base, rank, order = scratch[0], scratch[1], scratch[2], scratch[3]
    limit = table.vertex_keys.size - (d + 1) * 8
    for start in range(first, last, 8):
        if vertices > limit:
            return start, vertices
        _locate_eight(features, start, scale, elevated, base, rank)
        for lane in range(min(8, last - start)):
            point = start + lane
            key = types.int64(0)
            for axis in range(d):
                key += (types.int64(base[axis * 8 + lane]) - grid.lows[axis]) * grid.strides[axis]
            for axis in range(d + 1):  # remainders in ascending order, and whose they are
                place = d - types.intp(rank[axis * 8 + lane])
                weights[point, place] = elevated[axis * 8 + lane]
                order[place] = axis
            previous = weights[point, d] - np.float32(1)
            for color in range(d + 1):
                weight = weights[point, color] - previous
                previous = weights[point, color]
                weights[point, color] = weight
                slot = _slot(table, key)
                vertex = table.indices[slot]
                if vertex == _FREE:
                    vertex = vertices
                    vertices += 1
                    table.indices[slot] = vertex
                    table.keys[slot] = key
                    table.vertex_keys[vertex] = key
                    table.mass[vertex] = np.float32(0)
                table.mass[vertex] += weight
                offsets[point, color] = vertex
                key += grid.steps[types.intp(order[color])]  # along the axis with the least remainder left
    return last, vertices


@njit(nogil=True, cache=True)
def _find_neighbors(table, vertices, grid, neighbors):
    """Fill in the neighbors that exist; one search finds both directions of a pair."""
    for axis in range(neighbors.shape[0]):
        for vertex in range(vertices):
            neighbor = table.indices[_slot(table, table.vertex_keys[vertex] + grid.steps[axis])]
            if neighbor != _FREE:
                neighbors[axis, vertex, 0] = neighbor
                neighbors[axis, neighbor, 1] = vertex


@njit(nogil=True, cache=True)
def _blur_mass(neighbors, source, target):
    """`blur` of one number a vertex; returns the array, of the two given, that holds the result."""
    half = np.float32(0.5)
    for axis in range(neighbors.shape[0]):
        for vertex in range(neighbors.shape[1]):
            sides = source[neighbors[axis, vertex, 0]] + source[neighbors[axis, vertex, 1]]
            target[vertex] = source[vertex] + half * sides
        source, target = target, source
    return source


@njit(nogil=True, cache=True)
def _normalize(offsets, weights, mass, gain, factor):
    """Divide a pixel's weights by the root of its row sum, and multiply by `factor`: D^-1/2 K D^-1/2.

    The weights serve splat and slice, so that the filter gets `factor` squared.
    """
    for pixel in range(offsets.shape[0]):
        row_sum = np.float32(0)
        for k in range(offsets.shape[1]):
            row_sum += weights[pixel, k] * mass[offsets[pixel, k]]
        norm = np.float32(factor / np.sqrt(row_sum * gain + 1e-20))
        for k in range(offsets.shape[1]):
            weights[pixel, k] *= norm


@register_jitable
def add_slice(vector_lanes, vertex_count, lattice, pixel, values, vector):
    """`vector` plus what the pixel reads from its vertices.

    `values` is float32 ((vertices + 1) * lanes,); `vertex_count` a tuple as long as a pixel has vertices.
    """
    width = len(vector_lanes)
    for k in range(len(vertex_count)):
        weight = broadcast(vector_lanes, lattice.weights[pixel, k])
        vertex = load(vector_lanes, values, lattice.offsets[pixel, k] * width)
        vector = multiply_add(weight, vertex, vector)
    return vector


@register_jitable
def splat(vector_lanes, vertex_count, lattice, pixel, vector, values):
    """Add the pixel's `vector` to its vertices, weighted."""
    width = len(vector_lanes)
    for k in range(len(vertex_count)):
        weight = broadcast(vector_lanes, lattice.weights[pixel, k])
        start = lattice.offsets[pixel, k] * width
        store(values, start, multiply_add(weight, vector, load(vector_lanes, values, start)))


@njit(nogil=True, cache=True)
def blur(vector_lanes, neighbors, source, target):
    """Add to each vertex half of its two neighbors, one axis after another, from one array to the other.

    Args:
        vector_lanes: how many lanes, see `wsss.refine.simd`.
        neighbors: of the lattice; after an even number of axes the result is in `source`, else in `target`.
        source: float32 ((vertices + 1) * lanes,), its last row zeros; both are overwritten.
        target: another such array.
    """
    width = len(vector_lanes)
    half = broadcast(vector_lanes, np.float32(0.5))
    for axis in range(neighbors.shape[0]):
        for vertex in range(neighbors.shape[1]):
            one_side = load(vector_lanes, source, neighbors[axis, vertex, 0] * width)
            other_side = load(vector_lanes, source, neighbors[axis, vertex, 1] * width)
            own = load(vector_lanes, source, vertex * width)
            store(target, vertex * width, multiply_add(half, one_side + other_side, own))
        source, target = target, source
