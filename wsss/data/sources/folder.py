"""Collections as users have them: what is to become a record, before any image is opened.

A reader lists a collection into a `Listing`; `make_record` then checks one image. The folder with a table of
labels is read here, PASCAL VOC's and COCO's layouts in `voc` and `coco`.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from wsss.common import io
from wsss.common.constants import IGNORE, check_class_count
from wsss.common.errors import UserError
from wsss.data.images import MAX_PIXELS, BadImage, encode_mask, inspect_image, is_image
from wsss.data.records import Record
from wsss.data.sources import coco
from wsss.data.sources.base import ListedImage, Listing, Problem
from wsss.data.sources.files import NameHints, image_ids, list_folder, stem
from wsss.data.sources.label_table import LabelTable, parse_class_names, parse_label_table
from wsss.data.sources.mask_coding import MaskCoding

_AS_THEY_ARE = MaskCoding()


def read_folder(
    images: str,
    labels: str,
    *,
    masks: str | None = None,
    classes: str | None = None,
    val_fraction: float | None = None,
    label_separator: str | None = None,
) -> Listing:
    """Lists a folder of images with a table of labels.

    Args:
        images: folder or `gs://…`; images in its sub-folders have ids such as `sub/name`.
        labels: path of the table, see `label_table`. Its ids are the images' paths in the folder, with or
            without suffix.
        masks: folder of PNG masks named as the images, or None.
        classes: path of a file of class names, or None.
        val_fraction: part of the images, in (0, 1), that becomes split `val`, chosen by a hash of the id.
            Only for a table without splits; without either all images are `train`.
        label_separator: what separates names in the table's column `labels`; None finds out.

    Returns:
        `Listing`.

    Raises:
        UserError: a path is missing, or the table cannot be used.
    """
    class_names = read_class_names(classes) if classes else None
    table = read_label_table(labels, class_names, label_separator)
    if table.has_splits and val_fraction is not None:
        raise UserError("`--val_fraction` is for tables without a column `split`; this one has splits.")
    listing, mask_paths = _list_images_and_masks(images, masks)
    paths = listing.paths
    chosen, problems = _match(table.rows, paths)
    chosen_paths = {path for path, _ in chosen}
    mentioned = {problem.id for problem in table.problems + problems}
    for path in sorted(paths.keys() - chosen_paths):
        if is_image(path) and not {path, stem(path)} & mentioned:
            remedy = "Give it a row in the table, of zeros if it shows none of the classes."
            problems.append(Problem(stem(path), "table", "unlabelled", f"{path} has no row.", remedy))
    ids = image_ids(path for path, _ in chosen)
    items = []
    for path, row in chosen:
        split = row.split or ("val" if hash_fraction(ids[path]) < (val_fraction or 0) else "train")
        items.append(ListedImage(ids[path], split, row.labels, paths[path], mask_paths.get(stem(path))))
    if masks and items and not any(item.mask for item in items):
        raise UserError(_no_mask_fits(masks, mask_paths, ids))
    notes = [*table.notes]
    if table.unused_columns:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in table.unused_columns.items())
        notes.append(f"columns of the table not used: {reasons}")
    other = sum(not is_image(path) for path in paths.keys() - chosen_paths)
    if other:
        notes.append(f"files in the folder that are no images: {other}")
    unused = len(mask_paths.keys() - {stem(path) for path in chosen_paths})
    if unused:
        notes.append(f"masks without an image in the table: {unused}")
    return Listing(
        table.class_names,
        items,
        has_masks=bool(masks),
        problems=table.problems + listing.problems + problems,
        notes=notes,
    )


def read_label_table(
    path: str, class_names: Sequence[str] | None = None, label_separator: str | None = None
) -> LabelTable:
    """The table of labels in a file, see `label_table.parse_label_table`.

    Raises:
        UserError: the file cannot be read, or the table not be used.
    """
    return _parse_file(parse_label_table, path, "--labels", class_names, label_separator)


def make_record(
    item: ListedImage,
    image_bytes: bytes,
    mask_bytes: bytes | None,
    *,
    classes: int,
    has_masks: bool,
    max_pixels: int = MAX_PIXELS,
    mask_coding: MaskCoding = _AS_THEY_ARE,
) -> Record:
    """Checks an image and its mask and makes the record of them.

    Args:
        item: `ListedImage`.
        image_bytes: the image file's bytes.
        mask_bytes: the mask file's bytes, or None; COCO's shapes come with the item.
        classes: int, the number of foreground classes.
        has_masks: whether masks belong to the collection.
        max_pixels: int, the largest area of an image.
        mask_coding: `MaskCoding` of the masks' files.

    Returns:
        `Record`.

    Raises:
        BadImage: the image or its mask cannot be used.
    """
    metadata = inspect_image(image_bytes, max_pixels)
    mask = None
    if has_masks:
        mask = _read_mask(item.mask, mask_bytes, (metadata.height, metadata.width), mask_coding)
        strange = np.setdiff1d(mask, [*range(classes + 1), IGNORE])
        if strange.size:
            raise BadImage(
                "mask_values",
                f"The mask holds {', '.join(map(str, strange[:5]))}, beyond the {classes} classes.",
                "Numbers are 0 for background, 1 for the first class and so on, 255 for unknown.",
            )
    return Record(
        image_id=item.image_id,
        image_bytes=image_bytes,
        labels=tuple(item.labels),
        height=metadata.height,
        width=metadata.width,
        orientation=metadata.orientation,
        mask_bytes=None if mask is None else encode_mask(mask),
    )


def _read_mask(shapes, mask_bytes, size, mask_coding):
    """The mask in a file, drawn from COCO's shapes, or unknown throughout; uint8 of the image's size."""
    if mask_bytes is not None:
        mask = mask_coding.decode(mask_bytes)
        mask_size = mask.shape
    elif isinstance(shapes, dict):
        mask_size = (shapes["height"], shapes["width"])
    else:
        return np.full(size, IGNORE, np.uint8)
    if mask_size != size:
        raise BadImage(
            "mask_size",
            f"The mask has {mask_size[1]}x{mask_size[0]} pixels, the upright image {size[1]}x{size[0]}.",
            "Make the mask as large as the image is shown, its EXIF rotation applied.",
        )
    return mask if mask_bytes is not None else _draw(shapes)


def hash_fraction(image_id: str) -> float:
    """A number in [0, 1) that depends on the id alone, spread evenly."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=6).digest(), "big") / 2**48


def _draw(shapes):
    try:
        return coco.draw_mask(shapes)
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise BadImage(
            "mask_corrupt", f"Its shapes cannot be drawn: {str(error).rstrip('.')}.", "Correct them."
        ) from error


def _match(rows, paths):
    """Finds the file of each row: `([(path, row)], problems)`, each path at most once."""
    by_stem = defaultdict(list)
    for path in sorted(paths):
        if is_image(path):
            by_stem[stem(path)].append(path)
    of_path, problems = defaultdict(list), []
    hint = NameHints(path for path in paths if is_image(path))
    for row in rows:
        found = [row.image_id] if row.image_id in paths else by_stem.get(row.image_id, [])
        if not found:
            detail = f"Line {row.line} names an image that is not there."
            remedy = f"Add the file, or drop the row.{hint(row.image_id)}"
            problems.append(Problem(row.image_id, "table", "missing", detail, remedy))
        elif len(found) > 1:
            detail = f"{' and '.join(found)} have one id."
            remedy = "Write the suffix into the column `id`, or drop one of them."
            problems.append(Problem(row.image_id, "table", "duplicate", detail, remedy))
        else:
            of_path[found[0]].append(row)
    chosen = []
    for path, claims in of_path.items():
        first = claims[0]
        agree = all((row.split, row.labels) == (first.split, first.labels) for row in claims)
        if agree:
            chosen.append((path, first))
        for row in claims[1:]:
            detail = f"Lines {first.line} and {row.line} are both about it, and " + (
                "agree: the first counts." if agree else "disagree: it is left out."
            )
            problems.append(Problem(row.image_id, "table", "duplicate", detail, "Drop one of the rows."))
    return chosen, problems


def _list_images_and_masks(images, masks):
    """The `FolderListing` of the images, and dict of stem to the path of the mask."""
    listing = _list_files(images, "--images", excluded=masks)
    if not masks:
        return listing, {}
    mask_listing = _list_files(masks, "--masks")
    mask_paths = mask_listing.paths
    if _same_folder(images, masks):  # a mask is the PNG beside an image of its name
        named = {stem(path) for path in listing.paths if is_image(path) and not _is_png(path)}
        mask_paths = {
            path: full for path, full in mask_paths.items() if _is_png(path) and stem(path) in named
        }
        listing.paths = {path: full for path, full in listing.paths.items() if path not in mask_paths}
    else:
        listing.problems += mask_listing.problems
    pngs_last = sorted(mask_paths, key=lambda path: (_is_png(path), path))
    return listing, {stem(path): mask_paths[path] for path in pngs_last}


def _list_files(folder, flag, excluded=None):
    if not io.is_remote(folder) and not os.path.isdir(folder):
        raise UserError(f"`{flag}` must be a folder with files in it. Received: {folder}.")
    listing = list_folder(folder, [excluded] if excluded else [])
    if not listing.paths:
        raise UserError(f"`{flag}` must be a folder with files in it. Received: {folder}.")
    return listing


def _no_mask_fits(folder, mask_paths, ids):
    there = f"there is {os.path.basename(min(mask_paths.values()))}, but no" if mask_paths else "there is no"
    return (
        f"None of the images has a mask in {folder}: {there} {min(ids.values())}.png. "
        "Name the masks as the images."
    )


def _same_folder(one, other):
    if io.is_remote(one) or io.is_remote(other):
        return str(one).rstrip("/") == str(other).rstrip("/")
    return os.path.realpath(one) == os.path.realpath(other)


def _is_png(path):
    return path.lower().endswith(".png")


def read_class_names(path: str) -> tuple[str, ...]:
    """The foreground classes in a file of names, see `parse_class_names`.

    Raises:
        UserError: the file cannot be read, or holds no such names.
    """
    names = _parse_file(parse_class_names, path, "--classes")
    check_class_count(len(names), str(path))
    return names


def classes_unknown(directory: str, file: str) -> UserError:
    """The error of a data set without the file that names its classes."""
    return UserError(
        f"{directory} does not say which classes there are: pass `--classes`, a file with one a line, or put "
        f"{file} there."
    )


def _parse_file(parse, path, flag, *args):
    text = _read_text(path, flag)
    try:
        return parse(text, *args)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read_text(path, flag):
    try:
        return io.read_text(path)
    except OSError as error:
        raise UserError(f"`{flag}` must be a readable file. Received: {path} ({error}).") from error
