"""Slow, obvious dense CRFs: the lattice with a dictionary of vertices, and the exact kernel."""

from collections import defaultdict

import numpy as np


def features(image, spatial, color=None):
    """float64 (pixels, 2 or 5): x, y and, with `color`, the channels, in kernel widths."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    position = np.stack([x, y], -1).reshape(-1, 2) / spatial
    return position if color is None else np.concatenate([position, image.reshape(-1, 3) / color], 1)


def find_simplices(points):
    """For each point the vertices of its simplex and their weights; and the number of dimensions.

    In float32, and ties decided as pydensecrf does: where a point lies on the border of two simplices, either
    has the same values, but it decides which vertices exist.
    """
    d = points.shape[1]
    scale = np.float32(np.sqrt(2 / 3) * (d + 1)) / np.sqrt([(i + 1) * (i + 2) for i in range(d)])
    simplices = []
    for point in points.astype(np.float32) * scale.astype(np.float32):
        elevated, total = np.zeros(d + 1, np.float32), np.float32(0)
        for axis in range(d, 0, -1):
            elevated[axis] = total - np.float32(axis) * point[axis - 1]
            total += point[axis - 1]
        elevated[0] = total
        base = np.rint(elevated * np.float32(1 / (d + 1))) * (d + 1)
        rank = np.empty(d + 1, int)
        rank[np.argsort(-(elevated - base), kind="stable")] = np.arange(d + 1)
        rank += round(float(base.sum()) / (d + 1))
        wrap = (rank < 0) * (d + 1) - (rank > d) * (d + 1)
        rank, base = rank + wrap, base + wrap
        order = np.argsort(-rank)
        remainder = ((elevated - base) / (d + 1))[order]
        vertex, simplex = base.astype(int), []
        for axis, weight in zip(order, np.diff(remainder, prepend=remainder[d] - 1)):
            simplex.append((tuple(vertex), weight))
            vertex = vertex + 1
            vertex[axis] -= d + 1
        simplices.append(simplex)
    return simplices, d


def filter_values(simplices, d, values):
    """Splat, blur and slice of (pixels, channels)."""
    lattice = defaultdict(lambda: 0)
    for simplex, value in zip(simplices, values):
        for vertex, weight in simplex:
            lattice[vertex] = lattice[vertex] + weight * value
    for axis in range(d + 1):
        step = np.ones(d + 1, int)
        step[axis] -= d + 1
        vertices = list(lattice)
        blurred = {}
        for vertex in vertices:
            sides = [
                lattice[side] for side in (tuple(vertex + step), tuple(vertex - step)) if side in lattice
            ]
            blurred[vertex] = lattice[vertex] + 0.5 * sum(sides)
        lattice = blurred
    gain = 1 / (1 + 2.0**-d)
    return np.array(
        [gain * sum(weight * lattice[vertex] for vertex, weight in simplex) for simplex in simplices]
    )


def lattice_kernel(points):
    """Function (pixels, labels) -> (pixels, labels): the symmetrically normalized lattice filter."""
    simplices, d = find_simplices(points)
    norm = 1 / np.sqrt(filter_values(simplices, d, np.ones((len(points), 1))))
    return lambda values: norm * filter_values(simplices, d, norm * values)


def exact_kernel(points):
    """Function (pixels, labels) -> (pixels, labels): the symmetrically normalized Gaussian filter itself."""
    kernel = np.exp(-0.5 * ((points[:, None] - points) ** 2).sum(-1))
    norm = 1 / np.sqrt(kernel.sum(1))
    kernel *= norm[:, None] * norm
    return lambda values: kernel @ values


def mean_field(make_kernel, image, unary, iterations, gaussian=(3, 3), bilateral=(80, 13, 10)):
    """float64 (height, width, labels): the mean-field update as it is written."""
    logits = -unary.reshape(-1, unary.shape[2]).astype(np.float64)
    smooth = make_kernel(features(image, gaussian[0]))
    appearance = make_kernel(features(image, bilateral[0], bilateral[1]))
    result = softmax(logits)
    for _ in range(iterations):
        result = softmax(logits + gaussian[1] * smooth(result) + bilateral[2] * appearance(result))
    return result.reshape(unary.shape)


def softmax(logits):
    """Softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)
