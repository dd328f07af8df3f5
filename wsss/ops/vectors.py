"""Vectors of length 1, as cosines need them."""

from typing import Any

from keras import ops


def unit_vectors(vectors: Any, epsilon: float = 0.0) -> Any:
    """Vectors divided by their length; zero vectors stay zero, and their gradient is 0 and not NaN.

    Args:
        vectors: float (..., channels).
        epsilon: >= 0, added to the length.

    Returns:
        float, shaped like `vectors`.
    """
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    nonzero = squares > 0
    length = ops.sqrt(ops.where(nonzero, squares, 1.0))
    return ops.where(nonzero, vectors / (length + epsilon), 0.0)
