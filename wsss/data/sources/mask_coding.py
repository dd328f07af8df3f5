"""Which number in a mask's file is which class: found out over a collection, before any mask is used.

The rule is 0 for background, `k + 1` for class `k`, 255 for unknown. Two ways in which programs break it can
be undone with certainty: one class written as another value (0 and 255), and a palette in another order, so
that colors and not numbers encode the classes. What is not certain is refused.
"""

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wsss.common import io
from wsss.common.constants import IGNORE
from wsss.common.errors import UserError
from wsss.data.images import BadImage, decode_color_mask, decode_mask, mask_content, voc_palette
from wsss.data.sources.base import ListedImage
from wsss.data.tfrecord import decode_example, read_records

if TYPE_CHECKING:
    from wsss.data.dataset import Collection

SAMPLE = 1000  # masks that are looked into beforehand, spaced evenly
_REMEDY = (
    "Save masks as palette or gray PNG of 8 bits: 0 background, 1 for the first class and so on, 255 unknown."
)


@dataclass(frozen=True)
class MaskCoding:
    """How the numbers of masks' files become classes.

    Attributes:
        values: value in the file -> number of the class; all others stay.
        colors: (r, g, b) of each number where colors encode the classes, else empty; palettes and RGB only.
    """

    values: Mapping[int, int] = field(default_factory=dict)
    colors: Sequence[Sequence[int]] = ()

    def decode(self, data: bytes) -> np.ndarray:
        """The mask in a file, uint8 (height, width).

        Raises:
            BadImage: the file cannot be decoded, or has a color of no class.
        """
        mask = decode_color_mask(data, self.colors) if len(self.colors) else decode_mask(data)
        if not self.values:
            return mask
        table = np.arange(256, dtype=np.uint8)
        for value, number in self.values.items():
            table[int(value)] = number
        return table[mask]

    def to_json(self) -> dict:
        """The fields as plain values."""
        colors = [list(map(int, color)) for color in self.colors]
        return {"values": {str(value): number for value, number in self.values.items()}, "colors": colors}


class _Mask(NamedTuple):
    """One mask of the sample: its tags and content as numbers 1..K, by value and by color."""

    image_id: str
    tags: frozenset
    values: frozenset | None
    colors: dict | None  # value (or running number) -> color


def find_mask_coding(
    items: Any, class_names: Sequence[str], colors: Any = None
) -> tuple[MaskCoding, list[str]]:
    """Finds out how the masks of a listed collection are coded.

    Args:
        items: `ListedImage`s; those whose mask is a file are looked into, some of them where there are many.
        class_names: the foreground classes, in the order of their numbers.
        colors: uint8 (numbers, 3), the colors of the numbers from 0; None takes PASCAL VOC's.

    Returns:
        The coding, and notes for the user.

    Raises:
        UserError: the coding is not certain, or contradicts the tags.
    """
    palette = _full_palette(voc_palette() if colors is None else colors, len(class_names), colors is None)
    masks = _sample(items)
    notes = []
    by_color = _needs_colors(masks, palette)
    if by_color:
        notes.append("masks are read by the colors of their palette, since its order differs")
        numbers = {tuple(color): number for number, color in palette.items()}
        masks = [
            mask._replace(values=frozenset(numbers[color] for color in mask.colors.values()))
            if mask.colors is not None
            else mask
            for mask in masks
        ]
    masks = [mask for mask in masks if mask.values is not None]
    values = _find_values(masks, len(class_names))
    if values:
        ((value, _),) = values.items()
        notes.append(f"masks hold {value} where they show the only class, {class_names[0]}")
        masks = [
            mask._replace(values=frozenset(values.get(value, value) for value in mask.values))
            for mask in masks
        ]
    _check_against_tags(masks, class_names)
    table = [palette.get(number, palette[0]) for number in range(256)] if by_color else ()
    return MaskCoding(values, table), notes


def sample_masks(collection: "Collection", most: int) -> list[ListedImage]:
    """The tags and masks of about `most` records of an opened (TFDS) collection, the first of each shard.

    A mask that is missing is empty bytes.
    """
    if not collection.has_masks:
        return []
    paths = [path for split in collection.shard_lengths for path in collection.shard_paths(split)]
    of_each = -(-most // max(1, len(paths)))
    found: list[ListedImage] = []
    for path in paths:
        with contextlib.suppress(OSError, ValueError):  # said later, of this shard
            for index, serialized in enumerate(islice(read_records(path), of_each)):
                name = f"{path.rsplit('/', 1)[-1]}__{index}"
                mask = next(iter(decode_example(serialized).get(collection.keys.mask or "", ())), b"")
                try:
                    record = collection.parse(serialized, name)
                except ValueError:  # also said later, of this record; its mask counts all the same
                    found.append(ListedImage(name, "", (), "", mask))
                else:
                    found.append(ListedImage(record.image_id, "", record.labels, "", record.mask_bytes))
    return found


def check_masks(collection: "Collection") -> None:
    """Makes sure that the masks of a data set that `wsss.prepare` did not make are coded as they are read.

    Raises:
        UserError: numbers or colors stand for the classes in another way, or contradict the tags, or a mask
            of the sample is missing or cannot be read.
    """
    if collection.fingerprints or not collection.has_masks:
        return
    masks = sample_masks(collection, SAMPLE)
    remedy = (
        f"`python -m wsss.prepare --tfds {collection.directory} --output FOLDER` makes a collection with "
        "masks that can be used, and lists what cannot."
    )
    for item in masks:
        try:
            mask_content(item.mask)
        except BadImage as error:
            raise UserError(
                f"The masks of {collection.directory} cannot be used as they are, such as that of "
                f"{item.image_id}: {error.detail} {remedy}"
            ) from error
    coding, notes = find_mask_coding(masks, collection.class_names)
    if coding != MaskCoding():
        raise UserError(
            f"The masks of {collection.directory} cannot be used as they are: {notes[0]}. {remedy}"
        )


def tags_of_masks(
    masks: Mapping[Any, str], ids: Sequence[Any], class_names: Sequence[str], colors: Any = None
) -> dict[Any, tuple]:
    """The classes that masks show, where a collection has no other tags.

    Args:
        masks: image id -> path of its mask.
        ids: of the images.
        class_names: the foreground classes, in the order of their numbers.
        colors: see `find_mask_coding`.

    Returns:
        dict of image id to `(classes, None)`, or to `((), (reason, detail, remedy))` where the mask is
        missing or cannot be read.
    """
    items = [ListedImage(image_id, "", (), "", masks[image_id]) for image_id in ids if image_id in masks]
    coding, _ = find_mask_coding(items, class_names, colors)

    def tags(image_id):
        if image_id not in masks:
            return (), ("unlabelled", "It has neither an annotation nor a mask.", "Add one.")
        try:
            numbers = np.unique(coding.decode(io.read_bytes(masks[image_id]))).tolist()
        except BadImage as error:
            return (), (error.reason, error.detail, error.remedy)
        return {number - 1 for number in numbers if 0 < number <= len(class_names)}, None

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(ids, pool.map(tags, ids)))


def _full_palette(colors, classes, is_voc):
    """Number -> color, of the numbers that a mask may hold."""
    palette = {number: tuple(map(int, colors[number])) for number in range(min(classes + 1, len(colors)))}
    palette[IGNORE] = tuple(map(int, colors[IGNORE])) if is_voc else tuple(map(int, voc_palette()[IGNORE]))
    return palette


def _sample(items):
    chosen = [item for item in items if isinstance(item.mask, (str, bytes))]
    if len(chosen) > SAMPLE:
        chosen = [chosen[index] for index in np.linspace(0, len(chosen) - 1, SAMPLE).astype(int)]
    with ThreadPoolExecutor(8) as pool:
        return [mask for mask in pool.map(_look_into, chosen) if mask is not None]


def _look_into(item):
    try:
        data = item.mask if isinstance(item.mask, bytes) else io.read_bytes(item.mask)
        values, colors = mask_content(data)
    except (BadImage, OSError):  # said later, of this image
        return None
    if values is not None and colors is not None and len(set(colors.values())) < len(colors):
        colors = None  # two values look alike: its palette was not made to encode classes
    return _Mask(item.image_id, frozenset(label + 1 for label in item.labels), values, colors)


def _needs_colors(masks, palette):
    """Whether colors encode the classes and not numbers.

    Raises:
        UserError: palettes differ between masks, and their colors are not known.
    """
    colored = [mask for mask in masks if mask.colors is not None]
    numbers = {color: number for number, color in palette.items()}
    reordered = any(mask.values is None for mask in colored)
    known = True
    seen: dict[tuple, int] = {}
    differing = None
    for mask in colored:
        known &= all(color in numbers for color in mask.colors.values())
        if mask.values is None:
            continue
        for value, color in mask.colors.items():
            reordered |= numbers.get(color, value) != value
            if seen.setdefault(color, value) != value:
                differing = differing or (color, seen[color], value)
    if known:
        return reordered
    if differing:
        color, one, other = differing
        raise UserError(
            f"The palettes of the masks differ: {color} is {one} in one mask and {other} in another, "
            f"and not all colors are those of PASCAL VOC (or of labelmap.txt). {_REMEDY}"
        )
    return False


def _find_values(masks, classes):
    """`{value: 1}` where one class is written as another value; empty where numbers are as they should be.

    Raises:
        UserError: masks hold 0 and 255 alone, and which class is meant is not certain.
    """
    found = frozenset().union(*(mask.values for mask in masks))
    if not any(mask.tags for mask in masks) or found <= {IGNORE}:
        return {}
    foreground = found - {0, IGNORE}
    if classes == 1 and foreground == {1}:
        return {}
    candidates = foreground or (found - {0})
    if classes == 1 and len(candidates) == 1 and foreground != {1}:
        (value,) = candidates
        if all((value in mask.values) <= bool(mask.tags) for mask in masks):
            return {value: 1}
    if found == {0, IGNORE}:
        stray = next((mask.image_id for mask in masks if IGNORE in mask.values and not mask.tags), None)
        reason = f"there are {classes} classes" if classes > 1 else f"image {stray} has 255 and no tag"
        raise UserError(
            f"The masks hold 0 and 255 alone; whether 255 is a class or unknown is not certain: {reason}. "
            f"{_REMEDY}"
        )
    return {}


def _check_shift(masks, class_names):
    """Refuses masks that show just the tags, of 9 in 10 images, if each number is one more or one less."""
    tagged = [mask for mask in masks if mask.tags]

    def agreeing(shift):
        shown = (frozenset(value + shift for value in mask.values if value != IGNORE) for mask in tagged)
        return sum(numbers - {0} == mask.tags for numbers, mask in zip(shown, tagged))

    for shift, first in ((1, 0), (-1, 2)):
        count = agreeing(shift)
        if count > 1 and 10 * count >= 9 * len(tagged) and count > agreeing(0):
            raise UserError(
                f"The numbers in the masks seem to be off by one: {count} of {len(tagged)} images show their "
                f"tags if {first} is the first class, {class_names[0]}. {_REMEDY}"
            )


def _check_one_number(masks, class_names):
    """Refuses masks with one number for objects of several classes, as masks of foreground have."""
    shown = frozenset().union(*(mask.values for mask in masks)) - {0, IGNORE}
    if len(shown) != 1 or not shown <= set(range(1, len(class_names) + 1)):
        return
    (number,) = shown
    others = [mask for mask in masks if number in mask.values and mask.tags and number not in mask.tags]
    if others:
        tags = ", ".join(class_names[tag - 1] for tag in sorted(others[0].tags))
        raise UserError(
            f"The masks hold one number alone, {number} ({class_names[number - 1]}), also without its tag, "
            f"such as {others[0].image_id}, tagged {tags}: they do not tell the classes apart. {_REMEDY}"
        )


def _check_against_tags(masks, class_names):
    """Refuses masks whose numbers are not those of the tags.

    An image contradicts where its mask shows a class that is no tag and lacks one that is.

    Raises:
        UserError: most images contradict, or most of those with one class, which no mask of theirs shows; or
            the numbers count from another one, or do not tell the classes apart.
    """
    _check_shift(masks, class_names)
    _check_one_number(masks, class_names)
    checked, contradicting = [], []
    for mask in masks:
        shown = frozenset(value for value in mask.values if 0 < value <= len(class_names))
        if shown:
            checked.append((mask, shown))
            if shown - mask.tags and mask.tags - shown:
                contradicting.append((mask, shown))
    swapped = None
    for number in range(1, len(class_names) + 1):
        tagged = [shown for mask, shown in checked if number in mask.tags]
        against = [pair for pair in contradicting if number in pair[0].tags]
        if (
            len(tagged) > 1
            and not any(number in shown for shown in tagged)
            and 2 * len(against) > len(tagged)
        ):
            swapped = swapped or against[0]
    if 2 * len(contradicting) > len(checked):
        swapped = swapped or contradicting[0]
    if swapped:
        mask, shown = swapped
        tags = ", ".join(f"{class_names[number - 1]} ({number})" for number in sorted(mask.tags))
        numbers = ", ".join(f"{number} ({class_names[number - 1]})" for number in sorted(shown))
        raise UserError(
            f"The numbers in the masks are not those of the classes: {len(contradicting)} of {len(checked)} "
            f"images contradict, such as {mask.image_id}, tagged {tags}, whose mask shows {numbers}. "
            "Give the names in the order of the masks' numbers by `--classes`."
        )
