"""Collections as users have them: what is to become a record, before any image is opened.

A reader lists a collection into a `Source`; `make_record` then checks one image. The folder with a table of
labels is read here, PASCAL VOC's and COCO's layouts in `voc` and `coco`.
"""

import hashlib
from collections import defaultdict

import numpy as np

from wsss.common import io
from wsss.common.constants import IGNORE
from wsss.common.errors import UserError
from wsss.data.dataset import Record
from wsss.data.images import MAX_PIXELS, BadImage, decode_mask, encode_mask, inspect_image, is_image
from wsss.data.sources import coco
from wsss.data.sources.base import Item, Problem, Source
from wsss.data.sources.label_table import parse_class_names, parse_label_table


def read_folder(images, labels, *, masks=None, classes=None, val_fraction=None):
    """Lists a folder of images with a table of labels.

    Args:
        images: folder or `gs://…`; images in its sub-folders have ids such as `sub/name`.
        labels: path of the table, see `label_table`. Its ids are the images' paths in the folder, with or
            without suffix.
        masks: folder of PNG masks named as the images, or None.
        classes: path of a file of class names, or None.
        val_fraction: part of the images, in (0, 1), that becomes split `val`, chosen by a hash of the id.
            Only for a table without splits; without either all images are `train`.

    Returns:
        `Source`.

    Raises:
        UserError: a path is missing, or the table cannot be used.
    """
    class_names = read_class_names(classes) if classes else None
    table = _parse_file(parse_label_table, labels, "--labels", class_names)
    if table.has_splits and val_fraction is not None:
        raise UserError("`--val_fraction` is for tables without a column `split`; this one has splits.")
    paths = _list_folder(images, "--images", without=masks)
    chosen, problems = _match(table.rows, paths)
    mentioned = {problem.id for problem in table.problems}
    matched = {path for path, _ in chosen}
    for path in sorted(paths.keys() - matched):
        stem = _stem(path)
        if is_image(path) and not {path, stem} & (mentioned | {problem.id for problem in problems}):
            remedy = "Give it a row in the table, of zeros if it shows none of the classes."
            problems.append(Problem(stem, "table", "unlabelled", f"{path} has no row.", remedy))
    stems = defaultdict(int)
    for path, _ in chosen:
        stems[_stem(path)] += 1
    mask_paths = {_stem(path): full for path, full in _list_folder(masks, "--masks").items()} if masks else {}
    items = []
    for path, row in chosen:
        image_id = _stem(path) if stems[_stem(path)] == 1 else path
        split = row.split or ("val" if hash_fraction(image_id) < (val_fraction or 0) else "train")
        items.append(Item(image_id, split, row.labels, paths[path], mask_paths.get(_stem(path))))
    notes = []
    if table.ignored_columns:
        notes.append(f"columns of the table not used: {', '.join(table.ignored_columns)}")
    other = sum(not is_image(path) for path in paths.keys() - matched)
    if other:
        notes.append(f"files in the folder that are no images: {other}")
    unused = len(mask_paths.keys() - {_stem(path) for path in matched})
    if unused:
        notes.append(f"masks without an image in the table: {unused}")
    return Source(table.class_names, items, bool(masks), table.problems + problems, notes)


def make_record(item, image_bytes, mask_bytes, *, classes, has_masks, max_pixels=MAX_PIXELS):
    """Checks an image and its mask and makes the record of them.

    Args:
        item: `Item`.
        image_bytes: the image file's bytes.
        mask_bytes: the mask file's bytes, or None; COCO's shapes come with the item.
        classes: int, the number of foreground classes.
        has_masks: whether masks belong to the collection.
        max_pixels: int, the largest area of an image.

    Returns:
        `Record`.

    Raises:
        BadImage: the image or its mask cannot be used.
    """
    facts = inspect_image(image_bytes, max_pixels)
    size = (facts.height, facts.width)
    mask = None
    if has_masks:
        if mask_bytes is not None:
            mask = decode_mask(mask_bytes)
        elif isinstance(item.mask, dict):
            mask = _draw(item.mask)
        else:
            mask = np.full(size, IGNORE, np.uint8)
        if mask.shape != size:
            raise BadImage(
                "mask_size",
                f"The mask has {mask.shape[1]}x{mask.shape[0]} pixels, "
                f"the upright image {facts.width}x{facts.height}.",
                "Make the mask as large as the image is shown, its EXIF rotation applied.",
            )
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
        height=facts.height,
        width=facts.width,
        orientation=facts.orientation,
        mask_bytes=None if mask is None else encode_mask(mask),
    )


def hash_fraction(image_id):
    """A number in [0, 1) that depends on the id alone, spread evenly."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=6).digest(), "big") / 2**48


def _draw(shapes):
    try:
        return coco.draw_mask(shapes)
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise BadImage("mask_corrupt", f"Its shapes cannot be drawn: {error}.", "Correct them.") from error


def _match(rows, paths):
    """Finds the file of each row: `([(path, row)], problems)`, each path at most once."""
    by_stem = defaultdict(list)
    for path in sorted(paths):
        if is_image(path):
            by_stem[_stem(path)].append(path)
    of_path, problems = defaultdict(list), []
    for row in rows:
        found = [row.image_id] if row.image_id in paths else by_stem.get(row.image_id, [])
        if not found:
            detail = f"Line {row.line} names an image that is not there."
            problems.append(
                Problem(row.image_id, "table", "missing", detail, "Add the file, or drop the row.")
            )
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


def _list_folder(folder, flag, without=None):
    """Files of a folder, sub-folders included: dict of the path in the folder to the whole path."""
    folder = str(folder).rstrip("/") + "/"
    found = io.list_files(io.join(io.escape(folder), "**"))
    if not found:
        raise UserError(f"`{flag}` must be a folder with files in it. Received: {folder}.")
    # Masks may lie in the folder of the images.
    excluded = str(without).rstrip("/") + "/" if without else None
    return {path[len(folder) :]: path for path in found if excluded is None or not path.startswith(excluded)}


def read_class_names(path):
    """The foreground classes in a file of names, see `parse_class_names`.

    Raises:
        UserError: the file cannot be read, or holds no such names.
    """
    return _parse_file(parse_class_names, path, "--classes")


def _parse_file(parse, path, flag, *args):
    text = _read_text(path, flag)
    try:
        return parse(text, *args)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read_text(path, flag):
    try:
        return io.read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"`{flag}` must be a readable UTF-8 file. Received: {path} ({error}).") from error


def _stem(path):
    return path.rsplit(".", 1)[0] if is_image(path) else path
