"""Instances from IRN's displacement field: pixels that lead to the same centroid are one object.

A library function: the pipeline writes classes, not instances. An `IRNet` predicts the field.

    centroids = find_centroids(displacement)
    instances = group_pixels(centroids, displacement)

Source: Ahn, Cho & Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations",
CVPR 2019, section 5.1, and the released code.
"""

import numpy as np
from numba import njit
from scipy import ndimage


def find_centroids(displacement: np.ndarray, iterations: int = 300) -> np.ndarray:
    """Centroid of each pixel: where it ends after following the displacement field many times.

    The field is interpolated bilinearly between pixels, and a pixel stops at the edge of the image.

    Args:
        displacement: float (height, width, 2), `(dy, dx)` in pixels.
        iterations: >= 1; 100 are enough for most images.

    Returns:
        int32 (height, width, 2), `(y, x)`.

    Raises:
        ValueError: the field is not (height, width, 2) of finite numbers, or `iterations` is below 1.

    Example:
        >>> field = np.zeros((1, 5, 2))
        >>> field[0, :, 1] = [1, 0, 1, 1, 0]  # two objects, with centers in columns 1 and 4
        >>> find_centroids(field)[0, :, 1]
        array([1, 1, 4, 4, 4], dtype=int32)
    """
    displacement = _check_field(displacement)
    if not isinstance(iterations, (int, np.integer)) or iterations < 1:
        raise ValueError(f"`iterations` must be an integer, 1 or more. Received: {iterations}.")
    centroids = np.empty(displacement.shape, np.float32)
    _follow(displacement, iterations, centroids)
    return np.round(centroids).astype(np.int32)


def group_pixels(centroids: np.ndarray, displacement: np.ndarray, weak: float = 2.5) -> np.ndarray:
    """Instance of each pixel: centroids in one connected region of weak displacement are one instance.

    Args:
        centroids: int (height, width, 2) from `find_centroids`.
        displacement: float (height, width, 2), the field that they were found in.
        weak: displacements shorter than this, pixels, may hold a centroid; > 0.

    Returns:
        int32 (height, width), 0, 1, ... without gaps; the pixels that end outside of all such regions are one
        group too, the first.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> field = np.zeros((1, 9, 2))
        >>> field[0, :, 1] = [1, 0, -1, -2, 4, 3, 2, 1, 0]  # strong displacements part two objects
        >>> group_pixels(find_centroids(field), field)
        array([[0, 0, 0, 0, 1, 1, 1, 1, 1]], dtype=int32)
    """
    displacement, centroids = _check_field(displacement), np.asarray(centroids)
    if centroids.shape != displacement.shape:
        raise ValueError(
            "`centroids` must be of the shape of the displacement. "
            f"Received: {centroids.shape} and {displacement.shape}."
        )
    regions, _ = ndimage.label(np.hypot(displacement[..., 0], displacement[..., 1]) < weak)
    regions = regions[centroids[..., 0], centroids[..., 1]]
    return np.unique(regions, return_inverse=True)[1].reshape(regions.shape).astype(np.int32)


def _check_field(displacement: np.ndarray) -> np.ndarray:
    displacement = np.ascontiguousarray(displacement, np.float32)
    if displacement.ndim != 3 or displacement.shape[2] != 2 or not displacement.size:
        raise ValueError(
            f"`displacement` must be (height, width, 2), not empty. Received: {displacement.shape}."
        )
    if not np.isfinite(displacement).all():
        raise ValueError("`displacement` must be finite. Received: NaN or infinity.")
    return displacement


@njit(nogil=True, cache=True)
def _follow(displacement, iterations, centroids):
    """Write to `centroids` the place, in float32 pixels, that each pixel reaches."""
    height, width = displacement.shape[:2]
    for start_y in range(height):
        for start_x in range(width):
            y, x = np.float32(start_y), np.float32(start_x)
            for _ in range(iterations):
                top, left = int(y), int(x)
                bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
                down, across = y - np.float32(top), x - np.float32(left)
                up, back = np.float32(1) - down, np.float32(1) - across
                a, b = displacement[top, left], displacement[bottom, left]
                c, d = displacement[top, right], displacement[bottom, right]
                y += a[0] * up * back + b[0] * down * back + c[0] * up * across + d[0] * down * across
                x += a[1] * up * back + b[1] * down * back + c[1] * up * across + d[1] * down * across
                y = min(max(y, np.float32(0)), np.float32(height - 1))
                x = min(max(x, np.float32(0)), np.float32(width - 1))
            centroids[start_y, start_x, 0] = y
            centroids[start_y, start_x, 1] = x
