"""Affine transforms of whole batches of images: one bilinear warp, differentiable, on the accelerator.

An affine transform moves the content of an image: positions are `(y, x)` from the image's center in pixels,
and the content at `p` goes to `linear (p - anchor) + anchor + shift`, with `anchor` and `shift` relative
to the height and width, so that images and feature maps of any size are transformed alike.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

KINDS = ("rotate", "rescale_aspect", "rescale", "flip", "translation", "shear")
FILL_MODES = ("constant", "nearest", "reflect", "wrap")
Range = tuple[float, float]  # lowest and highest value
ARGUMENTS = 5  # numbers that describe one transform, whatever its kind


class AffineMap(NamedTuple):
    """Affine transforms, one an image."""

    linear: Any  # float (batch, 2, 2), on (y, x) in pixels
    anchor: Any  # float (batch, 2), (y, x) of the fixed point, relative to the size, from the center
    shift: Any  # float (batch, 2), (y, x), relative to the size


def affine_map(code: Any, args: Any) -> AffineMap:
    """Affine transforms of images from their codes and arguments.

    | code | kind | arguments |
    |---|---|---|
    | 0 | rotate | angle in radians, clockwise as seen on the screen |
    | 1 | rescale_aspect | height to width ratio of the change, -, y, x, scale |
    | 2 | rescale | -, -, y, x, scale |
    | 3 | flip | vertical if > 0.5, horizontal if > 0.5 |
    | 4 | translation | y, x, relative to the size |
    | 5 | shear | y, x, scale |

    `y, x` of rescaling is the point that stays, in [0, 1] of the size.

    Args:
        code: int (batch,), index in `KINDS`.
        args: float (batch, 5).

    Returns:
        `AffineMap`.
    """
    a0, a1, a2, a3, a4 = (args[:, i] for i in range(ARGUMENTS))
    one, zero = ops.ones_like(a0), ops.zeros_like(a0)

    def is_kind(name):
        return ops.cast(code, "int32") == KINDS.index(name)

    def by_kind(default, **values):
        for name, value in values.items():
            default = ops.where(is_kind(name), value, default)
        return default

    def safe(value, name):  # what other kinds keep in this place must not reach a root or a division
        return ops.where(is_kind(name), value, one)

    stretch = ops.sqrt(safe(a0, "rescale_aspect"))
    aspect_scale = safe(a4, "rescale_aspect")
    cosine, sine = ops.cos(a0), ops.sin(a0)
    yy = by_kind(
        one, rotate=cosine, rescale_aspect=aspect_scale * stretch, rescale=a4, flip=_sign(a0), shear=a2
    )
    xx = by_kind(
        one, rotate=cosine, rescale_aspect=aspect_scale / stretch, rescale=a4, flip=_sign(a1), shear=a2
    )
    yx = by_kind(zero, rotate=sine, shear=a2 * a0)
    xy = by_kind(zero, rotate=-sine, shear=a2 * a1)
    linear = ops.stack([ops.stack([yy, yx], axis=-1), ops.stack([xy, xx], axis=-1)], axis=-2)
    rescaled = is_kind("rescale_aspect") | is_kind("rescale")
    anchor = ops.stack([ops.where(rescaled, a - 0.5, zero) for a in (a2, a3)], axis=-1)
    shift = ops.stack([by_kind(zero, translation=a) for a in (a0, a1)], axis=-1)
    return AffineMap(linear, anchor, shift)


def inverse_arguments(code: Any, args: Any) -> Any:
    """The arguments with which the same code undoes the transform, exactly.

    Args:
        code: int (batch,), index in `KINDS`.
        args: float (batch, 5).

    Returns:
        float (batch, 5).
    """
    code = ops.cast(code, "int32")[:, None]
    a0, a1, a2, a3, a4 = (args[:, i] for i in range(ARGUMENTS))

    def reciprocal(value):
        return 1 / ops.where(value == 0, ops.ones_like(value), value)

    candidates = {
        "rotate": (-a0, a1, a2, a3, a4),
        "rescale_aspect": (reciprocal(a0), a1, a2, a3, reciprocal(a4)),
        "rescale": (a0, a1, a2, a3, reciprocal(a4)),
        "translation": (-a0, -a1, a2, a3, a4),
        "shear": (-a0, -a1, reciprocal(a2 * (1 - a0 * a1)), a3, a4),
    }
    inverse = args  # a flip undoes itself
    for kind, values in candidates.items():
        inverse = ops.where(code == KINDS.index(kind), ops.stack(values, axis=-1), inverse)
    return inverse


def warp(images: Any, affine: AffineMap, fill_mode: str = "constant", fill_value: float = 0.0) -> Any:
    """Applies one affine transform to each image, bilinearly.

    Args:
        images: float (batch, height, width, channels).
        affine: `AffineMap` of the same batch size, or of 1 for all images.
        fill_mode: what lies beyond the image: "constant", "nearest" (the border), "reflect" (mirrored, border
            included) or "wrap" (the image repeated).
        fill_value: the constant.

    Returns:
        Shaped like `images`, same dtype. The gradient flows to `images` and to `affine`.

    Raises:
        ValueError: unknown `fill_mode`.
    """
    if fill_mode not in FILL_MODES:
        raise ValueError(f"`fill_mode` must be one of {FILL_MODES}. Received: {fill_mode!r}.")
    dtype = images.dtype
    images = ops.cast(images, "float32")
    batch, height, width, channels = ops.shape(images)
    y, x = _source_positions(affine, height, width)
    flat = ops.reshape(images, (-1, channels))
    first_row = ops.arange(batch, dtype="int32")[:, None] * (height * width)
    y0, x0 = ops.floor(y), ops.floor(x)
    result, inside = 0.0, 0.0
    for dy, row_weight in ((0, y0 + 1 - y), (1, y - y0)):
        for dx, column_weight in ((0, x0 + 1 - x), (1, x - x0)):
            row, row_valid = _within(y0 + dy, height, fill_mode)
            column, column_valid = _within(x0 + dx, width, fill_mode)
            weight = (row_weight * row_valid * column_weight * column_valid)[..., None]
            index = first_row + row * width + column
            result = result + weight * ops.take(flat, index, axis=0)
            inside = inside + weight
    if fill_mode == "constant" and fill_value:
        result = result + (1 - inside) * fill_value
    return ops.cast(ops.reshape(result, (batch, height, width, channels)), dtype)


class Affine:
    """Random affine transforms of image batches, with exact inverses.

    Args:
        affine_weights: >= 0, relative frequency of rotate, rescale_aspect, rescale, flip, translation, shear;
            missing ones count as 0. None: all alike.
        fill_mode: "constant" (0), "nearest", "reflect" or "wrap".
        vertical_flip: whether a flip may be upside down; a flip is then vertical, horizontal or both.
        rotate_domain: range of the angle in radians.
        rescale_ratio_domain: range of the factor by which the height to width ratio changes.
        rescale_scale_domain: range of the scale.
        rescale_x_domain, rescale_y_domain: range of the fixed point of rescaling, 0 to 1 of the size.
        translation_x_domain, translation_y_domain: range of the shift, relative to the size.
        shear_x_domain, shear_y_domain, shear_scale_domain: ranges of the shear and its scale.
        seed: of the random transforms: int, or a `keras.random.SeedGenerator` that a model tracks.

    Raises:
        ValueError: negative, too many or all-zero weights, or an unknown fill mode.

    Example:
        >>> import numpy as np
        >>> images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype("float32")
        >>> affine = Affine([0, 0, 0, 1], seed=0)  # flips only
        >>> code, arguments = affine.random_affine_code(2)  # one transform an image
        >>> flipped = affine.apply_affine(images, code, arguments)
        >>> restored = affine.apply_affine(flipped, code, affine.inverse_affine_code(code, arguments))
        >>> bool(np.allclose(restored, images, atol=1e-6))
        True
    """

    def __init__(
        self,
        affine_weights: Sequence[float] | None = None,
        fill_mode: str = "nearest",
        *,
        vertical_flip: bool = True,
        rotate_domain: Range = (-np.pi / 2, np.pi / 2),
        rescale_ratio_domain: Range = (0.5, 2.0),
        rescale_scale_domain: Range = (1.0, 2.0),
        rescale_x_domain: Range = (0.0, 1.0),
        rescale_y_domain: Range = (0.0, 1.0),
        translation_x_domain: Range = (-0.5, 0.5),
        translation_y_domain: Range = (-0.5, 0.5),
        shear_x_domain: Range = (-0.5, 0.5),
        shear_y_domain: Range = (-0.5, 0.5),
        shear_scale_domain: Range = (0.5, 2.0),
        seed: int | keras.random.SeedGenerator | None = None,
    ):
        if fill_mode not in FILL_MODES:
            raise ValueError(f"`fill_mode` must be one of {FILL_MODES}. Received: {fill_mode!r}.")
        self.affine_weights = _frequencies(affine_weights)
        self.fill_mode, self.vertical_flip = fill_mode, vertical_flip
        own_generator = not isinstance(seed, keras.random.SeedGenerator)
        self.seed_generator = keras.random.SeedGenerator(seed) if own_generator else seed
        unused, point = (0.0, 0.0), (rescale_y_domain, rescale_x_domain)
        domains = np.array(
            [
                [rotate_domain, unused, unused, unused, unused],
                [rescale_ratio_domain, unused, *point, rescale_scale_domain],
                [unused, unused, *point, rescale_scale_domain],
                [(0.0, 1.0), (0.0, 1.0), unused, unused, unused],
                [translation_y_domain, translation_x_domain, unused, unused, unused],
                [shear_y_domain, shear_x_domain, shear_scale_domain, unused, unused],
            ],
            dtype="float32",
        )
        self._lowest, self._highest = domains[..., 0], domains[..., 1]

    def random_affine_code(self, size: int | None = None) -> tuple[Any, Any]:
        """Samples random transforms.

        Args:
            size: number of transforms, one an image; None: a single one, for all images of any batch.

        Returns:
            `(code, args)`: int32 (size,) and float32 (size, 5), or () and (5,) without a size.
        """
        count = 1 if size is None else size
        uniform = keras.random.uniform((count, 1 + ARGUMENTS), seed=self.seed_generator)
        upper = ops.convert_to_tensor(np.cumsum(self.affine_weights)[:-1], dtype="float32")
        code = ops.sum(ops.cast(uniform[:, :1] >= upper, "int32"), axis=-1)
        lowest, highest = (
            ops.take(ops.convert_to_tensor(x), code, axis=0) for x in (self._lowest, self._highest)
        )
        args = lowest + uniform[:, 1:] * (highest - lowest)
        flips = _flip_arguments(uniform[:, 1], self.vertical_flip)
        args = ops.where((code == KINDS.index("flip"))[:, None], flips, args)
        return (code[0], args[0]) if size is None else (code, args)

    def inverse_affine_code(self, code: Any, args: Any) -> Any:
        """The arguments that undo a transform when applied with the same code.

        Args:
            code: int (size,) or ().
            args: float (size, 5) or (5,).

        Returns:
            float, shaped like `args`.
        """
        code, args = ops.convert_to_tensor(code), ops.convert_to_tensor(args)
        inverse = inverse_arguments(ops.reshape(code, (-1,)), ops.reshape(args, (-1, ARGUMENTS)))
        return inverse if len(args.shape) == 2 else inverse[0]

    def apply_affine(self, images: Any, code: Any, args: Any) -> Any:
        """Transforms each image: one vectorized bilinear warp, differentiable and traceable.

        Args:
            images: float (batch, height, width, channels), images or maps of any size.
            code: int (batch,), or () for the same transform of all.
            args: float (batch, 5), or (5,).

        Returns:
            Tensor shaped like `images`.
        """
        images, args = ops.convert_to_tensor(images), ops.convert_to_tensor(args)
        code = ops.reshape(ops.convert_to_tensor(code), (-1,))
        return warp(images, affine_map(code, ops.reshape(args, (-1, ARGUMENTS))), self.fill_mode)


def _frequencies(weights):
    given = np.ones(len(KINDS)) if weights is None else np.asarray(weights, dtype="float64").ravel()
    if len(given) > len(KINDS) or (given < 0).any() or not given.sum() > 0:
        raise ValueError(
            f"`affine_weights` must be up to {len(KINDS)} numbers >= 0, not all 0, for {', '.join(KINDS)}. "
            f"Received: {weights}."
        )
    frequencies = np.zeros(len(KINDS))
    frequencies[: len(given)] = given / given.sum()
    return frequencies


def _flip_arguments(uniform, vertical_too):
    """Vertical and horizontal decision from one uniform number: never a flip that flips nothing."""
    if vertical_too:
        vertical, horizontal = uniform < 2 / 3, uniform >= 1 / 3
    else:
        vertical, horizontal = uniform < 0, uniform >= 0
    flags = [ops.cast(flag, "float32") for flag in (vertical, horizontal)]
    return ops.stack([*flags, *[ops.zeros_like(uniform)] * (ARGUMENTS - 2)], axis=-1)


def _sign(flag):
    return ops.where(flag > 0.5, -1.0, 1.0)


def _source_positions(affine, height, width):
    """Position in the source, in pixels from the first one's center, of every pixel of the result."""
    rows, columns = (ops.arange(side, dtype="float32") for side in (height, width))
    height, width = ops.cast(height, "float32"), ops.cast(width, "float32")
    size = ops.stack([height, width])
    a, b, c, d = (affine.linear[:, i // 2, i % 2][:, None, None] for i in range(4))
    determinant = a * d - b * c
    anchor = affine.anchor * size
    start = anchor + affine.shift * size  # where the anchor ends up
    y = ops.reshape(rows - (height - 1) / 2, (1, -1)) - start[:, :1]
    x = ops.reshape(columns - (width - 1) / 2, (1, -1)) - start[:, 1:]
    y, x = y[:, :, None], x[:, None, :]
    source_y = (d * y - b * x) / determinant + (anchor[:, 0] + (height - 1) / 2)[:, None, None]
    source_x = (a * x - c * y) / determinant + (anchor[:, 1] + (width - 1) / 2)[:, None, None]
    return tuple(ops.reshape(position, (ops.shape(position)[0], -1)) for position in (source_y, source_x))


def _within(position, size, fill_mode):
    """Whole positions brought into the image, as indices, and whether they count (0 or 1)."""
    last = ops.cast(size, "float32") - 1
    valid = ops.ones_like(position)
    if fill_mode == "constant":
        valid = ops.cast((position >= 0) & (position <= last), "float32")
    elif fill_mode == "reflect":
        position = ops.mod(position, 2 * (last + 1))
        position = ops.minimum(position, 2 * last + 1 - position)
    elif fill_mode == "wrap":
        position = ops.mod(position, last + 1)
    return ops.cast(ops.clip(position, 0, last), "int32"), valid
