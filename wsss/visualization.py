"""Pictures for people: masks and score maps over the image."""

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from wsss.common.constants import IGNORE
from wsss.data.images import voc_palette


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """The image with every label but the background tinted in its color; ignored pixels turn white.

    Args:
        image: uint8 `(height, width, 3)`.
        mask: uint8 `(height, width)`.
        opacity: of the tint, in [0, 1].

    Returns:
        uint8 `(height, width, 3)`.
    """
    colors = voc_palette().astype(np.float32)
    colors[IGNORE] = 255
    tint = np.where(mask == 0, 0, opacity)[..., None].astype(np.float32)
    return (image * (1 - tint) + colors[mask] * tint + 0.5).astype(np.uint8)


def heat_map(image: np.ndarray, scores: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """The image under a map of scores, from blue (0) over green and yellow to red (1).

    Args:
        image: uint8 `(height, width, 3)`.
        scores: float `(height, width)` in [0, 1].
        opacity: of the map, in [0, 1].

    Returns:
        uint8 `(height, width, 3)`.
    """
    centers = np.array([0.75, 0.5, 0.25], np.float32)  # where red, green and blue are brightest
    heat = np.clip(1.5 - np.abs(np.clip(scores, 0, 1)[..., None] - centers) * 4, 0, 1) * 255
    return (image * (1 - opacity) + heat * opacity + 0.5).astype(np.uint8)


def side_by_side(pictures: Iterable[np.ndarray], height: int = 160, gap: int = 4) -> bytes:
    """PNG bytes of several pictures in a row, each scaled to one height.

    Args:
        pictures: uint8 `(height, width, 3)` each.
        height: in pixels.
        gap: white pixels between neighbors.
    """
    tiles = []
    for picture in pictures:
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        tiles.append(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
    strip = Image.new("RGB", (sum(tile.width for tile in tiles) + gap * (len(tiles) - 1), height), "white")
    left = 0
    for tile in tiles:
        strip.paste(tile, (left, 0))
        left += tile.width + gap
    stream = io.BytesIO()
    strip.save(stream, "PNG")
    return stream.getvalue()
