"""Pairs of nearby pixels: the offsets between them, and the pixels on the line from one to the other.

The single definition for training (`wsss.ops.affinity`) and for the random walk (`wsss.refine`).
"""

import functools

Offset = tuple[int, int]


@functools.lru_cache(maxsize=32)
def pair_offsets(radius: int) -> tuple[Offset, ...]:
    """Offsets `(dy, dx)` of half a disc, each unordered pair once: by rows, then by columns.

    Source: the order of AffinityNet's released code (Ahn & Kwak, CVPR 2018).

    Args:
        radius: int >= 2; offsets are shorter than it.

    Returns:
        Tuple of `(dy, dx)`, 34 of them for radius 5.

    Raises:
        ValueError: `radius` is below 2, or no integer.

    Example:
        >>> pair_offsets(2)
        ((0, 1), (1, -1), (1, 0), (1, 1))
    """
    if radius != int(radius) or radius < 2:
        raise ValueError(
            f"`radius` must be an integer, 2 or more. Smaller ones hold no pair. Received: {radius}."
        )
    radius = int(radius)
    right = [(0, dx) for dx in range(1, radius)]
    below = [(dy, dx) for dy in range(1, radius) for dx in range(1 - radius, radius)]
    return tuple(right + [(dy, dx) for dy, dx in below if dy**2 + dx**2 < radius**2])


@functools.lru_cache(maxsize=512)
def path_pixels(dy: int, dx: int) -> tuple[Offset, ...]:
    """Pixels of the discrete line from (0, 0) to (dy, dx), both ends included.

    Those nearer than 1 to the straight line, in the rectangle between its ends.

    Source: the released code of IRN (Ahn, Cho & Kwak, CVPR 2019).

    Args:
        dy: int >= 0.
        dx: int.

    Returns:
        Sorted tuple of `(y, x)`.

    Example:
        >>> path_pixels(2, 2)
        ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2))
    """
    box = [(y, x) for y in range(dy + 1) for x in range(min(dx, 0), max(dx, 0) + 1)]
    return tuple((y, x) for y, x in box if (dy * x - dx * y) ** 2 < dy**2 + dx**2 or (y, x) == (0, 0))
