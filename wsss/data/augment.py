"""Augmentation of training images, as in the published protocol of SEAM and Pixel-to-Prototype Contrast.

Resize to a random long side (bicubic, antialiased), mirror, jitter the colors in random order, crop at a
random place. All parameters are sampled first, by `sample_augmentation` from a seed alone; `augment_image`
applies them. So the result does not depend on parallelism, and parameters can be injected.

Source: YudeWang/SEAM, tool/imutils.py and train_SEAM.py; torchvision's color jitter. Departures: images stay
in [0, 1] (the network normalizes), so padding is by the color that normalizes to 0; between the color
operations nothing is rounded to 8 bits.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

_GRAY = (0.299, 0.587, 0.114)  # ITU-R 601-2 luma, as in Pillow


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the sampled augmentation parameters.

    Attributes:
        long_side: (low, high), the image's long side after resizing as a multiple of the crop; an integer
            number of pixels is sampled uniformly, both ends included.
        flip: probability of mirroring, in [0, 1].
        brightness, contrast, saturation: a factor is sampled from [1 - value, 1 + value]; value in [0, 1].
        hue: a rotation is sampled from [-value, value], 1 being the full circle; value in [0, 0.5].
        random_placement: whether the crop (or, in a larger crop, the image) is placed at random, or centered.
    """

    long_side: tuple = (1.0, 768 / 448)
    flip: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.1
    random_placement: bool = True

    def __post_init__(self):
        low, high = self.long_side
        object.__setattr__(self, "long_side", (float(low), float(high)))  # a list, when it comes from JSON
        if not 0 < low <= high:
            raise ValueError(f"`long_side` must be 0 < low <= high. Received: {self.long_side}.")
        for name, limit in (("flip", 1), ("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ValueError(f"`{name}` must lie in [0, {limit}]. Received: {value}.")


AUGMENTATIONS = {
    "published": Augmentation(),
    "light": Augmentation(long_side=(0.9, 1.25), brightness=0.1, contrast=0.1, saturation=0.1, hue=0.02),
    "none": Augmentation((1.0, 1.0), 0.0, 0.0, 0.0, 0.0, 0.0, random_placement=False),
}


class AugmentationParameters(NamedTuple):
    """Sampled augmentation parameters of one image; every field a scalar unless said.

    Attributes:
        long_side: int32, pixels.
        flip: bool.
        factors: float32 (4,), for brightness, contrast, saturation (1 = unchanged) and hue (0 = unchanged).
        order: int32 (4,), the order in which those four are applied.
        offsets: float32 (2,), in [0, 1), where the crop lies along y and x within what is possible.
    """

    long_side: tf.Tensor
    flip: tf.Tensor
    factors: tf.Tensor
    order: tf.Tensor
    offsets: tf.Tensor


def sample_augmentation(augmentation: Augmentation, image_size: int, seed: Any) -> AugmentationParameters:
    """Samples augmentation parameters; the same seed gives the same ones, on every machine.

    Args:
        augmentation: `Augmentation`.
        image_size: int, side of the crop in pixels.
        seed: int (2,), a stateless seed.

    Returns:
        `AugmentationParameters`.
    """
    uniform = tf.random.stateless_uniform([12], seed, alg="philox")
    low, high = (round(factor * image_size) for factor in augmentation.long_side)
    ranges = tf.constant(
        [augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue],
        tf.float32,
    )
    center = tf.constant([1.0, 1.0, 1.0, 0.0])
    offsets = uniform[10:12] if augmentation.random_placement else tf.constant([0.5, 0.5])
    return AugmentationParameters(
        long_side=low + _integer(uniform[0], high - low + 1),
        flip=uniform[1] < augmentation.flip,
        factors=center + (2 * uniform[2:6] - 1) * ranges,
        order=tf.argsort(uniform[6:10], stable=True),
        offsets=offsets,
    )


def augment_image(
    image: tf.Tensor, parameters: AugmentationParameters, image_size: int, pad_value: Sequence[float]
) -> tf.Tensor:
    """Applies sampled parameters to an image.

    Args:
        image: uint8 RGB (height, width, 3).
        parameters: `AugmentationParameters`.
        image_size: int, side of the crop in pixels.
        pad_value: three floats in [0, 1], the color beyond the image's border.

    Returns:
        float32 (image_size, image_size, 3), in [0, 1].
    """
    image = resize_long_side(image, parameters.long_side)
    image = tf.cond(parameters.flip, lambda: image[:, ::-1], lambda: image)
    image = jitter_colors(tf.cast(image, tf.float32) / 255.0, parameters.factors, parameters.order)
    size = tf.shape(image)
    offsets = [crop_offset(size[axis], image_size, parameters.offsets[axis]) for axis in (0, 1)]
    return place_crop(image, image_size, offsets, pad_value)


def augment_mask(
    mask: tf.Tensor, image_shape: Any, parameters: AugmentationParameters, image_size: int
) -> tf.Tensor:
    """Applies the sampled parameters of an image to its label map.

    Args:
        mask: uint8 (height, width, 1), 255 = ignore.
        image_shape: int32 (2,), height and width of the image.
        parameters: `AugmentationParameters`.
        image_size: int, side of the crop in pixels.

    Returns:
        uint8 (image_size, image_size): the labels of the nearest pixels, 255 beyond the image's border.
    """
    size = resized_shape(image_shape[0], image_shape[1], parameters.long_side)
    mask = tf.image.resize(mask, size, method="nearest")
    mask = tf.cond(parameters.flip, lambda: mask[:, ::-1], lambda: mask)
    offsets = [crop_offset(size[axis], image_size, parameters.offsets[axis]) for axis in (0, 1)]
    mask = place_crop(tf.cast(mask, tf.float32), image_size, offsets, (255.0,))
    return tf.cast(mask[..., 0], tf.uint8)


def resized_shape(height: Any, width: Any, long_side: Any) -> tf.Tensor:
    """(height, width), int32, with the given long side; the other is rounded half to even, at least 1."""
    size = tf.cast(tf.stack([height, width]), tf.float64)
    scaled = tf.round(size * tf.cast(long_side, tf.float64) / tf.reduce_max(size))
    return tf.maximum(tf.cast(scaled, tf.int32), 1)


def resize_long_side(image: tf.Tensor, long_side: Any) -> tf.Tensor:
    """Resizes an image, uint8 (height, width, 3), to a long side in pixels; see `resize_bicubic`."""
    size = tf.shape(image)
    return resize_bicubic(image, resized_shape(size[0], size[1], long_side))


def resize_bicubic(image: tf.Tensor, shape: Any) -> tf.Tensor:
    """Resizes by the bicubic filter, antialiased, as Pillow does to within one gray level.

    Like Pillow along x first, then along y, rounding and clipping to 8 bits after each: at the borders of
    white or black areas that makes a difference of up to 20 levels. Each pass runs along the first axis, all
    else being channels to TensorFlow, which takes half the time of its own two-dimensional resizing.

    Args:
        image: uint8 (height, width, 3).
        shape: int32 (height, width) of the result.

    Returns:
        uint8 (height, width, 3).
    """

    def resize_first_axis(image, length):
        size = tf.shape(image)
        columns = tf.reshape(image, (1, size[0], 1, size[1] * size[2]))
        columns = tf.image.resize(columns, (length, 1), method="bicubic", antialias=True)
        return tf.reshape(tf.saturate_cast(tf.round(columns), tf.uint8), (length, size[1], size[2]))

    wide = resize_first_axis(tf.transpose(image, (1, 0, 2)), shape[1])
    return tf.ensure_shape(resize_first_axis(tf.transpose(wide, (1, 0, 2)), shape[0]), (None, None, 3))


def jitter_colors(image: tf.Tensor, factors: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Changes brightness, contrast, saturation and hue, in a given order.

    Each of the first three mixes the image with another: black, its mean gray, itself in gray.

    Args:
        image: float32 (height, width, 3), in [0, 1].
        factors: float32 (4,), weights of the image in the first three mixtures (1 = unchanged), and the turn
            of the hue as a part of the circle.
        order: int32 (4,), a permutation of 0..3.

    Returns:
        float32 (height, width, 3), in [0, 1].
    """
    shape = tf.shape(image)
    image = tf.reshape(image, (-1, 3))
    gray = tf.constant(_GRAY)

    def clip(image):
        return tf.clip_by_value(image, 0.0, 1.0)

    def change_brightness(image):
        return clip(image * factors[0])

    def change_contrast(image):
        mean_gray = tf.tensordot(tf.reduce_mean(image, axis=0), gray, 1)
        return clip(image * factors[1] + (1.0 - factors[1]) * mean_gray)

    def change_saturation(image):  # as one small matrix product: five times as fast as channel by channel
        mixture = factors[2] * tf.eye(3) + (1.0 - factors[2]) * tf.tile(gray[:, None], (1, 3))
        return clip(tf.matmul(image, mixture))

    def change_hue(image):
        return tf.image.adjust_hue(image[None], factors[3])[0]

    operations = (change_brightness, change_contrast, change_saturation, change_hue)
    unchanged = tf.equal(factors, [1.0, 1.0, 1.0, 0.0])
    for position in range(4):
        index = order[position]
        branches = [functools.partial(operation, image) for operation in (*operations, tf.identity)]
        image = tf.switch_case(tf.where(unchanged[index], 4, index), branches)
    return tf.reshape(image, shape)


def crop_offset(length: Any, crop: int, fraction: Any) -> tf.Tensor:
    """Where a crop begins in an image along one axis, or a smaller image in the crop.

    Args:
        length: int32, the image's side in pixels.
        crop: int, the crop's side in pixels.
        fraction: float32 in [0, 1).

    Returns:
        int32, in [0, |length - crop|], each value equally likely for uniform fractions.
    """
    return _integer(fraction, tf.abs(length - crop) + 1)


def place_crop(image: tf.Tensor, crop: int, offsets: Any, pad_value: Sequence[float]) -> tf.Tensor:
    """Cuts a square out of an image; where the image is smaller it is placed on a canvas.

    Args:
        image: float32 (height, width, channels).
        crop: int, side of the square in pixels.
        offsets: int32 (y, x), as from `crop_offset`.
        pad_value: floats (channels,), the color of the canvas.

    Returns:
        float32 (crop, crop, channels).
    """
    channels = image.shape[-1]
    size = tf.shape(image)[:2]
    offsets = tf.stack(offsets)
    larger = size > crop
    begin = tf.where(larger, offsets, 0)
    before = tf.where(larger, 0, offsets)
    taken = tf.minimum(size, crop)
    image = tf.slice(image, tf.concat([begin, [0]], 0), tf.concat([taken, [channels]], 0))
    paddings = tf.stack([before, crop - taken - before], axis=1)
    pad_value = tf.constant(pad_value, tf.float32)
    canvas = tf.pad(tf.ones(taken), paddings)[..., None]
    image = tf.pad(image, tf.concat([paddings, [[0, 0]]], 0)) + (1.0 - canvas) * pad_value
    return tf.ensure_shape(image, (crop, crop, channels))


def _integer(uniform, count):
    """An integer in [0, count) from a float32 in [0, 1)."""
    count = tf.cast(count, tf.int32)
    return tf.minimum(tf.cast(uniform * tf.cast(count, tf.float32), tf.int32), count - 1)
