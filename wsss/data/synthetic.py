"""A collection without any photograph: drawn scenes of textured objects, with exact masks.

For trying the whole way without data, for tests and for examples. Each class is a shape with a texture and a
narrow range of hues; objects lie turned, scaled and shaded on a mottled background, hide parts of one
another, and stand among clutter that has their shapes but neither texture nor color. A small network learns
the tags from scratch in a minute or two; the masks are left to be found.
"""

from io import BytesIO

import numpy as np
from PIL import Image

from wsss.common import io
from wsss.common.output_folder import claim
from wsss.data.dataset import Collection, shard_name, write_metadata
from wsss.data.images import encode_mask
from wsss.data.records import Record, format_example
from wsss.data.tfrecord import write_records

NAME = "drawn_things"
CLASS_NAMES = ("striped_disc", "checked_square", "dotted_star", "ringed_triangle", "wavy_cross", "plaid_ring")
_HUES = (0.0, 0.62, 0.15, 0.36, 0.82, 0.5)
_LARGEST_HIDDEN_PART = 0.5
_RECORDS_PER_SHARD = 128


def write_synthetic_collection(
    directory: str, *, images: int = 240, size: int = 112, classes: int = 4, seed: int = 0
) -> Collection:
    """Draws a collection and writes it as shards, one image in five as split `val`, the others as `train`.

    Args:
        directory: folder or `gs://…`.
        images: int >= 2.
        size: int >= 32, side of the square images in pixels.
        classes: int in [1, 6].
        seed: int >= 0; the same arguments give the same bytes.

    Returns:
        The `Collection`.

    Raises:
        UserError: the folder holds files of others.
    """
    for name, value, low, high in (
        ("images", images, 2, 10**6),
        ("size", size, 32, 4096),
        ("classes", classes, 1, len(CLASS_NAMES)),
    ):
        if not low <= value <= high:
            raise ValueError(f"`{name}` must lie in [{low}, {high}]. Received: {value}.")
    metadata = ("dataset_info.json", "features.json", "labels.labels.txt", "fingerprints.json")
    claim(directory, "collection", owned=(*metadata, f"{NAME}-*.tfrecord-*-of-*")).begin()
    numbers = {
        "train": [n for n in range(images) if n % 5 != 4],
        "val": [n for n in range(images) if n % 5 == 4],
    }
    numbers["val"] = numbers["val"] or [numbers["train"].pop()]
    shard_lengths, split_bytes = {}, {}
    for split, members in numbers.items():
        shards = np.array_split(members, -(-len(members) // _RECORDS_PER_SHARD))
        shard_lengths[split] = tuple(map(len, shards))
        split_bytes[split] = 0
        for index, shard in enumerate(shards):
            records = (_record(int(number), size, classes, seed) for number in shard)
            path = io.join(directory, shard_name(NAME, split, index, len(shards)))
            split_bytes[split] += write_records(path, map(format_example, records))[1]
    return write_metadata(
        directory,
        name=NAME,
        class_names=CLASS_NAMES[:classes],
        shard_lengths=shard_lengths,
        split_bytes=split_bytes,
        has_masks=True,
        description=f"Drawn scenes of textured objects: {images} images of {size} pixels, seed {seed}.",
    )


def draw_scene(generator: np.random.Generator, size: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one scene.

    Args:
        generator: `numpy.random.Generator`.
        size: int, side in pixels.
        classes: int, how many of the classes to draw from.

    Returns:
        `(image, mask)`: uint8 (size, size, 3) and uint8 (size, size), 0 background, 1..classes.
    """
    image = _background(generator, size)
    mask = np.zeros((size, size), np.uint8)
    for _ in range(generator.integers(3, 8)):
        u, v = _frame(generator, size, (0.04, 0.12))
        inside = _SHAPES[generator.integers(len(_SHAPES))](u, v)
        color = _rgb(generator.uniform(), generator.uniform(0.0, 0.25), generator.uniform(0.2, 0.9))
        image = np.where(inside[..., None], color, image)
    for kind in generator.choice(classes, generator.integers(1, min(3, classes) + 1), replace=False):
        image, mask = _add_object(generator, image, mask, kind)
    image += generator.normal(0, 0.02, image.shape)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), mask


def _add_object(generator, image, mask, kind):
    """Puts an object of a class on the scene, at a place where what it hides stays recognizable."""
    size = mask.shape[0]
    for _ in range(20):
        u, v = _frame(generator, size, (0.19, 0.34))
        inside = _SHAPES[kind](u, v)
        hidden = np.bincount(mask[inside], minlength=len(CLASS_NAMES) + 1)[1:]
        visible = np.bincount(mask.ravel(), minlength=len(CLASS_NAMES) + 1)[1:]
        if (hidden <= _LARGEST_HIDDEN_PART * visible).all():
            break
    else:
        return image, mask
    hue = _HUES[kind] + generator.uniform(-0.04, 0.04)
    light = _rgb(hue, generator.uniform(0.55, 0.75), generator.uniform(0.85, 1.0))
    dark = _rgb(hue + 0.05, generator.uniform(0.7, 0.9), generator.uniform(0.3, 0.45))
    texture = _TEXTURES[kind](u * generator.uniform(0.85, 1.15), v * generator.uniform(0.85, 1.15))
    shade = 1 + 0.25 * (u * generator.uniform(-1, 1) + v * generator.uniform(-1, 1))
    colors = (dark + (light - dark) * texture[..., None]) * shade[..., None]
    return np.where(inside[..., None], colors, image), np.where(inside, np.uint8(kind + 1), mask)


def _record(number, size, classes, seed):
    image, mask = draw_scene(np.random.default_rng([seed, number]), size, classes)
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=92)
    return Record(
        image_id=f"scene_{number:06d}",
        image_bytes=stream.getvalue(),
        labels=tuple(int(value) - 1 for value in np.unique(mask[mask > 0])),
        height=size,
        width=size,
        mask_bytes=encode_mask(mask),
    )


def _frame(generator, size, radii):
    """Coordinates (u, v) of every pixel in a frame at a random place and angle, its unit a random radius."""
    radius = generator.uniform(*radii)
    center_y, center_x = generator.uniform(0.6 * radius, 1 - 0.6 * radius, 2)
    y, x = np.mgrid[0:size, 0:size] / (size - 1)
    angle = generator.uniform(0, 2 * np.pi)
    y, x = (y - center_y) / radius, (x - center_x) / radius
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _background(generator, size):
    """Mottled ground in dull colors: noise of three sizes between two colors."""
    noise = np.zeros((size, size))
    for cells, weight in ((3, 0.5), (9, 0.3), (27, 0.2)):
        coarse = Image.fromarray(generator.uniform(0, 1, (cells, cells)).astype(np.float32))
        noise += weight * np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    first, second = (
        _rgb(generator.uniform(), generator.uniform(0.05, 0.35), generator.uniform(0.3, 0.85))
        for _ in range(2)
    )
    return first + (second - first) * noise[..., None]


def _rgb(hue, saturation, value):
    """A color, float (3,): hue as a part of the circle, the others in [0, 1]."""
    ramp = np.abs(((hue + np.array([0.0, 2 / 3, 1 / 3])) % 1.0) * 6 - 3) - 1
    return value * (1 - saturation + saturation * np.clip(ramp, 0, 1))


def _star(u, v):
    angle = np.arctan2(v, u)
    return np.hypot(u, v) < 0.72 + 0.28 * np.cos(5 * angle)


def _triangle(u, v):
    return (v < 0.6) & (np.abs(u) * 1.732 - v < 1.1)


def _cross(u, v):
    return (np.minimum(np.abs(u), np.abs(v)) < 0.42) & (np.maximum(np.abs(u), np.abs(v)) < 1)


def _ring(u, v):
    return np.abs(np.hypot(u, v) - 0.72) < 0.28


_SHAPES = (
    lambda u, v: np.hypot(u, v) < 0.95,
    lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.82,
    _star,
    _triangle,
    _cross,
    _ring,
)
_TEXTURES = (  # of the classes in turn: how light each point is, 0 or 1
    lambda u, v: np.sin(11 * u) > 0,
    lambda u, v: np.sin(9 * u) * np.sin(9 * v) > 0,
    lambda u, v: np.cos(13 * u) + np.cos(13 * v) > 0.6,
    lambda u, v: np.sin(14 * np.hypot(u, v)) > 0,
    lambda u, v: np.sin(12 * v + 2 * np.sin(8 * u)) > 0,
    lambda u, v: (np.sin(12 * u) > 0.3) | (np.sin(12 * v) > 0.3),
)
