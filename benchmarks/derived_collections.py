"""Collections of many kinds, made of MSRC v2, VOC148 and drawn scenes, for `benchmarks.robust_defaults`.

`CELLS` says how each is made: which photographs are taken, what their classes are called, and what becomes of
the pictures. Every cell has splits `train` and `val` with masks, which only measure.
"""

import csv
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.common import io
from wsss.common.output_folder import claim
from wsss.data.dataset import Collection, open_collection, shard_name, write_metadata
from wsss.data.images import decode_image, decode_mask, encode_mask
from wsss.data.records import Record, format_example
from wsss.data.synthetic import write_synthetic_collection
from wsss.data.tfrecord import write_records

SHARED = Path(os.environ.get("WSSS_SHARED", Path(__file__).resolve().parents[2] / "shared"))
MSRC, VOC148 = "msrc_v2", "voc2012_mini148"
ANIMALS = ("cow", "sheep", "bird", "cat", "dog")
VEHICLES = ("aeroplane", "car", "bicycle", "boat")
MOST = {"train": 120, "val": 40}  # photographs of a derived cell, by split
COLLAGE = (376, 500)  # height and width


@dataclass(frozen=True)
class Scene:
    """An image with its true mask and the tags that training sees.

    Attributes:
        image_id: unique in its split.
        image: uint8 (height, width, 3).
        mask: uint8 (height, width), 0 background, 1..K class, 255 unknown.
        tags: 0-based classes.
        encoded: the file's bytes, where the image is as it was.
    """

    image_id: str
    image: np.ndarray
    mask: np.ndarray
    tags: tuple[int, ...]
    encoded: bytes | None = None


@dataclass(frozen=True)
class Photo:
    """A photograph of a source, not yet read: its files' names and its tags."""

    source: str
    image_id: str
    tags: frozenset[str]


@dataclass(frozen=True)
class Cell:
    """How a collection is made.

    Attributes:
        sources: folders below `data` of the shared ones; none: drawn scenes.
        rename: class of a source -> class here; others are background. None: all classes as they are.
        select: `(photos, split, generator)` -> photos.
        change: `(scenes, split, generator)` -> scenes.
    """

    sources: tuple[str, ...] = (MSRC,)
    rename: Mapping[str, str] | None = None
    select: Callable = lambda photos, split, generator: photos
    change: Callable = lambda scenes, split, generator: scenes


def write_cell(name: str, folder: str, seed: int = 0) -> Collection:
    """Makes a collection, unless it is there.

    Args:
        name: of a cell in `CELLS`.
        folder: where its shards go.
        seed: of what is random in it.
    """
    if io.exists(io.join(folder, "dataset_info.json")):
        return open_collection(folder)
    cell = CELLS[name]
    if not cell.sources:
        return write_synthetic_collection(folder, images=40 if name == "quick" else 120, size=96)
    claim(folder, "collection", owned=("*.json", "labels.labels.txt", "*.tfrecord-*")).begin()
    classes = _classes(cell)
    lengths, sizes = {}, {}
    for split in MOST:
        generator = np.random.default_rng([seed, split == "val"])
        photos = [photo for source in cell.sources for photo in _photos(source, split)]
        photos = cell.select(photos, split, generator)
        scenes = cell.change(_scenes(photos, cell, classes), split, generator)
        path = io.join(folder, shard_name(name, split, 0, 1))
        lengths[split], sizes[split] = write_records(path, (_example(scene) for scene in scenes))
    return write_metadata(
        folder,
        name=name,
        class_names=classes,
        shard_lengths={split: (length,) for split, length in lengths.items()},
        split_bytes=sizes,
        has_masks=True,
    )


def _classes(cell):
    names = [name for source in cell.sources for name in _class_names(source)]
    if cell.rename is not None:
        names = [cell.rename[name] for name in names if name in cell.rename]
    return tuple(dict.fromkeys(names))


def _class_names(source):
    lines = (SHARED / "data" / source / "classes.txt").read_text().split("\n")
    return [line.split()[-1] for line in lines if line.strip() and line.split()[0] not in ("0", "255")]


def _photos(source, split):
    names = _class_names(source)
    with open(SHARED / "data" / source / "labels.csv", newline="") as table:
        for row in csv.DictReader(table):
            if row["split"] == split:
                yield Photo(source, row["id"], frozenset(name for name in names if row[name] == "1"))


def _scenes(photos, cell, classes):
    """Reads the photographs, one at a time; classes that the cell does not have become background."""
    for photo in photos:
        names = _class_names(photo.source)
        here = [name if cell.rename is None else cell.rename.get(name) for name in names]
        numbers = np.arange(256, dtype=np.uint8)
        numbers[1 : len(names) + 1] = [classes.index(name) + 1 if name in classes else 0 for name in here]
        folder = SHARED / "data" / photo.source
        encoded = (folder / "images" / f"{photo.image_id}.jpg").read_bytes()
        mask = numbers[decode_mask((folder / "masks" / f"{photo.image_id}.png").read_bytes())]
        kept = {name for old, name in zip(names, here, strict=True) if old in photo.tags}
        tags = tuple(sorted(classes.index(name) for name in kept if name in classes))
        image = decode_image(encoded)
        yield Scene(f"{photo.source}_{photo.image_id}", image, mask, tags, encoded)


def _example(scene):
    encoded = scene.encoded
    if encoded is None:
        stream = BytesIO()
        Image.fromarray(scene.image).save(stream, "JPEG", quality=95)
        encoded = stream.getvalue()
    height, width = scene.mask.shape
    return format_example(
        Record(scene.image_id, encoded, scene.tags, height, width, mask_bytes=encode_mask(scene.mask))
    )


# -- which photographs


def _some(photos, split, generator):
    """At most `MOST` of them."""
    order = generator.permutation(len(photos))[: MOST[split]]
    return [photos[index] for index in sorted(order)]


def _part(fraction):
    def select(photos, split, generator):
        if split == "val":
            return _some(photos, split, generator)
        order = generator.permutation(len(photos))[: round(fraction * len(photos))]
        return [photos[index] for index in sorted(order)]

    return select


def _exclusive(names):
    """Those of one class each, and nothing else on them."""

    def select(photos, split, generator):
        return _some(
            [photo for photo in photos if len(photo.tags) == 1 and photo.tags <= set(names)], split, generator
        )

    return select


def _one_class(name):
    """All of a class, and others up to `MOST`."""

    def select(photos, split, generator):
        positive = [photo for photo in photos if name in photo.tags]
        others = [photo for photo in photos if name not in photo.tags]
        order = generator.permutation(len(others))[: MOST[split] - len(positive)]
        return positive + [others[index] for index in order]

    return select


def _with_several_tags(photos, split, generator):
    return _some([photo for photo in photos if len(photo.tags) > 1], split, generator)


def _imbalanced(photos, split, generator):
    """Of each class 0.7 times as many as of the one before, at least three; the validation as it is."""
    tagged = [photo for photo in photos if photo.tags]
    if split == "val":
        return _some(tagged, split, generator)
    quotas = {name: max(3, round(36 * 0.7**rank)) for rank, name in enumerate(_class_names(MSRC))}
    taken = []
    for index in generator.permutation(len(tagged)):
        if all(quotas[name] > 0 for name in tagged[index].tags):
            taken.append(tagged[index])
            quotas.update({name: quotas[name] - 1 for name in tagged[index].tags})
    return taken


# -- what becomes of the pictures


def _wrong_tags(scenes, split, generator):
    """One tag in twenty is another class's; the validation stays right."""
    scenes = list(scenes)
    classes = max(max(scene.tags, default=0) for scene in scenes) + 1
    for scene in scenes:
        tags = set(scene.tags)
        for tag in scene.tags:
            if split == "train" and generator.random() < 0.05:
                tags = tags - {tag} | {int(generator.integers(classes))}
        yield replace(scene, tags=tuple(sorted(tags)))


def _resized(shortest, longest):
    """Long sides between two numbers of pixels, evenly on a logarithmic scale."""

    def change(scenes, split, generator):
        for scene in scenes:
            side = float(np.exp(generator.uniform(np.log(shortest), np.log(longest))))
            yield _enlarged(scene, side / max(scene.mask.shape))

    return change


def _enlarged(scene, factor):
    return replace(
        scene,
        image=_to_size(
            scene.image, [round(side * factor) for side in scene.mask.shape], Image.Resampling.BICUBIC
        ),
        mask=_to_size(
            scene.mask, [round(side * factor) for side in scene.mask.shape], Image.Resampling.NEAREST
        ),
        encoded=None,
    )


def _to_size(array, size, method):
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), method))


def _small_objects(scenes, split, generator):
    """Each photograph of an object, at a fifth of the sides, somewhere in a larger one without objects."""
    scenes = list(scenes)
    empty = [scene for scene in scenes if not scene.tags and not (scene.mask == 255).mean() > 0.5]
    for scene in (scene for scene in scenes if scene.tags):
        ground = empty[generator.integers(len(empty))]
        ground, small = _enlarged(ground, 600 / max(ground.mask.shape)), _enlarged(scene, 0.4)
        image, mask = ground.image.copy(), np.zeros_like(ground.mask)
        height, width = small.mask.shape
        top, left = (generator.integers(a - b) for a, b in zip(mask.shape, small.mask.shape, strict=True))
        place = np.s_[top : top + height, left : left + width]
        image[place], mask[place] = small.image, small.mask
        yield replace(small, image=image, mask=mask)


def _collages(scenes, split, generator):
    """Four photographs of objects on one image, each once."""
    scenes = [scene for scene in scenes if scene.tags]
    order = generator.permutation(len(scenes))
    half = [side // 2 for side in COLLAGE]
    for number, part in enumerate(order[: len(order) // 4 * 4].reshape(-1, 4)):
        tiles = [scenes[index] for index in part]
        images = [_to_size(tile.image, half, Image.Resampling.BICUBIC) for tile in tiles]
        masks = [_to_size(tile.mask, half, Image.Resampling.NEAREST) for tile in tiles]
        image, mask = (
            np.concatenate([np.concatenate(four[:2], axis=1), np.concatenate(four[2:], axis=1)])
            for four in (images, masks)
        )
        tags = tuple(sorted({tag for tile in tiles for tag in tile.tags}))
        yield Scene(f"collage_{number}", image, mask, tags)


_GROUPS = dict.fromkeys(ANIMALS, "animal") | dict.fromkeys(VEHICLES, "vehicle")
CELLS: dict[str, Cell] = {
    "quick": Cell(sources=()),
    "drawn": Cell(sources=()),
    "msrc": Cell(),
    "msrc_half": Cell(select=_part(0.5)),
    "msrc_tenth": Cell(select=_part(0.1)),
    "voc148": Cell(sources=(VOC148,)),
    "one_class": Cell(rename={"cow": "cow"}, select=_one_class("cow")),
    "two_classes": Cell(rename=_GROUPS, select=_exclusive((*ANIMALS, *VEHICLES))),
    "exclusive": Cell(rename={name: name for name in ANIMALS}, select=_exclusive(ANIMALS)),
    "co_occurring": Cell(sources=(MSRC, VOC148), select=_with_several_tags),
    "wrong_tags": Cell(select=_some, change=_wrong_tags),
    "imbalanced": Cell(select=_imbalanced),
    "of_64_pixels": Cell(select=_some, change=_resized(64, 64)),
    "of_64_to_1000_pixels": Cell(select=_some, change=_resized(64, 1000)),
    "small_objects": Cell(select=_some, change=_small_objects),
    "collages": Cell(sources=(MSRC, VOC148), change=_collages),
}
