"""Pixel-adaptive mask refinement (PAMR): soft masks smoothed along the colors of the image.

Source: Araslanov & Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020,
section 3.3, and the released code. It is a batched refinement for the accelerator, no substitute for
the dense CRF.
"""

from collections.abc import Sequence
from typing import Any

from keras import ops

from wsss.ops.resize import resize_bilinear

NEIGHBORS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))


def refine_masks(
    images: Any, masks: Any, iterations: int = 10, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24)
) -> Any:
    """Soft masks averaged `iterations` times over the pixels around that look alike.

    Each pixel has 8 neighbors at every dilation; they are weighted by a softmax of their difference in
    color, measured by the local standard deviation. No gradient passes.

    Args:
        images: float (batch, height, width, colors).
        masks: float (batch, h, w, classes); resized to the images with aligned corners.
        iterations: >= 0.
        dilations: distances of the neighbors in pixels.

    Returns:
        float (batch, height, width, classes), dtype of `masks`.
    """
    size = ops.shape(images)[1:3]
    refined = resize_bilinear(ops.cast(masks, "float32"), size, align_corners=True)
    refined = ops.stop_gradient(refined)
    offsets = tuple((dy * d, dx * d) for d in dilations for dy, dx in NEIGHBORS)
    weights = _neighbor_weights(ops.stop_gradient(ops.cast(images, "float32")), offsets, len(dilations))

    def average(_, maps):
        neighbors = _Neighbors(maps, max(dilations))
        return sum(neighbors.at(offset) * weights[..., i, None] for i, offset in enumerate(offsets))

    return ops.cast(ops.fori_loop(0, iterations, average, refined), masks.dtype)


def _neighbor_weights(images, offsets, centers):
    """Softmax over the neighbors, (batch, height, width, neighbors).

    As published the center counts once for each dilation in the standard deviation.
    """
    neighbors = _Neighbors(images, max(dy for dy, _ in offsets))
    count = len(offsets) + centers
    mean = (sum(neighbors.at(offset) for offset in offsets) + centers * images) / count
    squares = sum(ops.square(neighbors.at(offset) - mean) for offset in offsets)
    deviation = ops.sqrt((squares + centers * ops.square(images - mean)) / (count - 1))
    scale = 1 / (1e-8 + 0.1 * deviation)
    similarity = [-ops.mean(ops.abs(images - neighbors.at(offset)) * scale, axis=-1) for offset in offsets]
    return ops.softmax(ops.stack(similarity, axis=-1), axis=-1)


class _Neighbors:
    """Maps shifted by offsets, the border repeated outwards."""

    def __init__(self, maps, reach):
        self.reach = reach
        self.size = ops.shape(maps)[1:3]
        for axis, length in zip((1, 2), self.size):
            index = ops.clip(ops.arange(-reach, length + reach, dtype="int32"), 0, length - 1)
            maps = ops.take(maps, index, axis=axis)
        self.padded = maps

    def at(self, offset):
        (dy, dx), (height, width), reach = offset, self.size, self.reach
        return self.padded[:, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
