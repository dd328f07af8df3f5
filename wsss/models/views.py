"""The second view of training images, and how class maps go from one view to the other."""

import dataclasses
import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple

from keras import ops

from wsss.ops.affine import Affine
from wsss.ops.resize import resize_bilinear


@dataclasses.dataclass(frozen=True)
class RescaledView:
    """The second view is the image in another size, as the authors of SEAM train.

    Attributes:
        scale: > 0, relative size.
        size: `(height, width)` in pixels, in place of `scale`.

    Example:
        >>> from wsss.backbones.tiny import small_backbone
        >>> from wsss.models import SEAM
        >>> model = SEAM.from_backbone(small_backbone(width=8), classes=3, view=RescaledView(0.5))
        >>> RescaledView(0.5).options()
        {'view': 'rescale', 'view_scale': 0.5, 'view_size': None}
    """

    scale: float = 0.3
    size: tuple[int, int] | None = None

    def options(self) -> dict:
        """The options of `SEAM`'s constructor."""
        return {"view": "rescale", "view_scale": self.scale, "view_size": self.size}


@dataclasses.dataclass(frozen=True)
class AffineView:
    """The second view is a random affine transform of each image.

    Attributes:
        rotate, rescale, flip, translation: >= 0, relative frequencies of the transforms.
        fill_mode: filling beyond the image: "constant" (0), "nearest", "reflect" or "wrap".
        use_inverse: whether maps are compared in the frames of both views.

    Example:
        >>> from wsss.backbones.tiny import small_backbone
        >>> from wsss.models import SEAM
        >>> view = AffineView(rescale=0.5, flip=0.5, fill_mode="reflect")
        >>> model = SEAM.from_backbone(small_backbone(width=8), classes=3, view=view)
        >>> model.get_config()["affine_flip"]
        0.5
    """

    rotate: float = 0.0
    rescale: float = 0.5
    flip: float = 0.5
    translation: float = 0.0
    fill_mode: str = "constant"
    use_inverse: bool = True

    def options(self) -> dict:
        """The options of `SEAM`'s constructor."""
        return {
            "view": "affine",
            "affine_rotate": self.rotate,
            "affine_rescale": self.rescale,
            "affine_flip": self.flip,
            "affine_translation": self.translation,
            "fill_mode": self.fill_mode,
            "use_inverse_affine": self.use_inverse,
        }


class SecondView(NamedTuple):
    """The transformed images, and the same transform for maps."""

    images: Any  # (batch, height, width, channels)
    to_second: Callable  # maps of the first view -> maps on the pixels of the second
    to_first: Callable | None  # the inverse, where maps are also to be compared there


def rescaled_view(images: Any, scale: float | None = None, size: tuple[int, int] | None = None) -> SecondView:
    """The images in another size; SEAM's authors take 0.3 of it, those of Pixel-to-Prototype 128 x 128.

    Args:
        images: float (batch, height, width, channels).
        scale: > 0, size relative to `images`, rounded down; or None.
        size: `(height, width)` in pixels, in place of `scale`.

    Returns:
        `SecondView`; all resizing is bilinear with aligned corners.
    """
    height, width = size or (_scaled(side, scale) for side in ops.shape(images)[1:3])

    def to_second(maps):
        return resize_bilinear(maps, (height, width), align_corners=True)

    return SecondView(to_second(images), to_second, None)


def affine_view(images: Any, affine: Affine, use_inverse: bool = True) -> SecondView:
    """Each image under a random affine transform of its own.

    Args:
        images: float (batch, height, width, channels).
        affine: `wsss.ops.affine.Affine`.
        use_inverse: whether maps of the second view are also taken back to the first.

    Returns:
        `SecondView`.
    """
    code, arguments = affine.random_affine_code(ops.shape(images)[0])

    def to_second(maps):
        return affine.apply_affine(maps, code, arguments)

    def to_first(maps):
        return affine.apply_affine(maps, code, affine.inverse_affine_code(code, arguments))

    return SecondView(to_second(images), to_second, to_first if use_inverse else None)


def _scaled(side, scale):
    if isinstance(side, Integral):
        return max(math.floor(side * scale), 1)
    return ops.maximum(ops.cast(ops.floor(ops.cast(side, "float64") * scale), "int32"), 1)
