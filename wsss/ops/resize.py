"""Bilinear resizing as two small matrix products: exact, differentiable, for any size."""

from numbers import Integral
from typing import Any

from keras import ops

from wsss.ops.interpolation import interpolation_matrix


def resize_bilinear(images: Any, size: tuple[Any, Any], align_corners: bool = False) -> Any:
    """Bilinear interpolation of images to another size, without antialiasing.

    Each axis is interpolated by one matrix with at most two weights a row, so the gradient is the
    transposed product, and the same numbers come out on every backend.

    Args:
        images: float (batch, height, width, channels).
        size: `(height, width)` of the result in pixels; ints, or scalar tensors inside a
            TensorFlow graph.
        align_corners: whether the centers of the corner pixels fall on each other; otherwise the
            corners of the images do (half-pixel centers, clamped at the border).

    Returns:
        (batch, *size, channels), dtype of `images`.
    """
    height, width = size
    # Rows first, on the flattened (width, channels): one plain product for each image.
    _, in_height, in_width, channels = ops.shape(images)
    if not _same_int(height, in_height):
        rows = _interpolation_weights(height, in_height, align_corners, images.dtype)
        images = ops.matmul(rows, ops.reshape(images, (-1, in_height, in_width * channels)))
        images = ops.reshape(images, (-1, height, in_width, channels))
    if not _same_int(width, in_width):
        columns = _interpolation_weights(width, in_width, align_corners, images.dtype)
        images = ops.matmul(columns, images)
    return images


def _interpolation_weights(out_size, in_size, align_corners, dtype):
    if isinstance(out_size, Integral) and isinstance(in_size, Integral):
        matrix = interpolation_matrix(int(out_size), int(in_size), align_corners).astype("float32")
        return ops.cast(ops.convert_to_tensor(matrix), dtype)
    # A size known only when the graph runs: the same formula in tensors, float32.
    out = ops.arange(out_size, dtype="float32")
    out_length, in_length = ops.cast(out_size, "float32"), ops.cast(in_size, "float32")
    if align_corners:
        source = out * ((in_length - 1) / ops.maximum(out_length - 1, 1))
    else:
        source = ops.clip((out + 0.5) * (in_length / out_length) - 0.5, 0, in_length - 1)
    distance = ops.abs(source[:, None] - ops.arange(in_size, dtype="float32"))
    return ops.cast(ops.maximum(1 - distance, 0), dtype)


def _same_int(a, b):
    return isinstance(a, Integral) and isinstance(b, Integral) and a == b
