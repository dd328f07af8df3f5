"""Bilinear interpolation as small matrices, in NumPy: for workers that never import Keras.

Resizing an image bilinearly is `rows @ image @ columns.T`, so resizing twice is a product of two small
matrices, and the mirror of a resized map is the resized mirror.
"""

import functools

import numpy as np


def interpolation_matrix(out_size: int, in_size: int, align_corners: bool = False) -> np.ndarray:
    """The matrix `(out_size, in_size)` that interpolates linearly from `in_size` samples to `out_size`.

    Args:
        out_size: number of samples wanted, >= 1.
        in_size: number of samples given, >= 1.
        align_corners: whether the first and the last samples coincide (source coordinate
            `i * (in - 1) / (out - 1)`); otherwise half-pixel centers, clamped at the edges, no antialiasing.

    Returns:
        float64 array; each row sums to one.

    Raises:
        ValueError: a size is not positive.
    """
    return _interpolate_rows(np.eye(max(in_size, 0)), out_size, align_corners)


@functools.lru_cache(maxsize=256)  # a megabyte each at most, for photographs of 12 megapixels
def upsampling_matrix(out_size: int, scaled_size: int, low_size: int) -> np.ndarray:
    """From a feature map to the scaled image (corners aligned), and on to the image's size (half-pixel).

    Args:
        out_size: pixels of the image as it lies on disk, along one axis.
        scaled_size: pixels of the image that the network saw.
        low_size: positions of the network's feature map.

    Returns:
        float32 array `(out_size, low_size)`, read-only since it is shared.
    """
    to_scaled = interpolation_matrix(scaled_size, low_size, align_corners=True)
    matrix = _interpolate_rows(to_scaled, out_size, align_corners=False).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def _interpolate_rows(samples, out_size, align_corners):
    in_size = len(samples)
    if out_size < 1 or in_size < 1:
        raise ValueError(f"Sizes must be positive. Received: out_size={out_size}, in_size={in_size}.")
    index = np.arange(out_size, dtype=np.float64)
    if align_corners:
        source = index * ((in_size - 1) / (out_size - 1) if out_size > 1 else 0.0)
    else:
        source = np.clip((index + 0.5) * (in_size / out_size) - 0.5, 0, in_size - 1)
    low = np.minimum(source.astype(np.int64), in_size - 1)
    high = np.minimum(low + 1, in_size - 1)
    fraction = (source - low)[:, None]
    return samples[low] * (1 - fraction) + samples[high] * fraction
