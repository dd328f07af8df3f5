"""MMSegmentation's layout: images in `img_dir/SPLIT`, masks in `ann_dir/SPLIT`, names in `metainfo.json`."""

import os
from typing import Any

from wsss.common import io
from wsss.common.errors import UserError
from wsss.data.images import is_image
from wsss.data.sources.base import ListedImage, Listing, Problem
from wsss.data.sources.files import stem
from wsss.data.sources.folder import read_class_names
from wsss.data.sources.mask_coding import tags_of_masks

_IMAGES, _MASKS = "img_dir", "ann_dir"
_METAINFO = "metainfo.json"


def read_mmseg(directory: str, classes: str = "") -> Listing:
    """Lists a data set of MMSegmentation whose masks have 0 for the background and 255 for unknown.

    Args:
        directory: folder or `gs://…` with `img_dir/SPLIT` and `ann_dir/SPLIT`, sub-folders included.
        classes: file of class names in the order of the masks' numbers; by default `metainfo.json` in the
            folder, with `classes` as in MMSegmentation's `metainfo`, the background first.

    Returns:
        `Listing`; the tags of an image are the classes that its mask shows.

    Raises:
        UserError: there are no such folders, or its classes cannot be known.
    """
    names = read_class_names(classes) if classes else _read_metainfo(directory)
    images = _list_by_split(directory, _IMAGES, is_image)
    if not images:
        raise UserError(f"`--mmseg` must hold img_dir/SPLIT and ann_dir/SPLIT. Received: {directory}.")
    masks = _list_by_split(directory, _MASKS, lambda path: path.lower().endswith(".png"))
    tags = tags_of_masks(masks, list(images), names)
    items, problems = [], []
    for (split, image_id), path in images.items():
        labels, fault = tags[split, image_id]
        if fault:
            problems.append(Problem(image_id, "mask", *fault))
        else:
            items.append(ListedImage(image_id, split, tuple(sorted(labels)), path, masks[split, image_id]))
    notes = ["the tags are the classes that the masks show"]
    return Listing(names, items, has_masks=True, problems=problems, notes=notes)


def _read_metainfo(directory):
    path = io.join(directory, _METAINFO)
    if not io.exists(path):
        raise UserError(
            f"{directory} does not say which classes there are: pass `--classes`, a file with one a line, or "
            f"put {_METAINFO} there."
        )
    names: Any = io.read_object(path).get("classes")
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f"{path} must hold `classes`, a list of names with the background first.")
    if len(names) < 2 or names[0].strip().lower().strip("_") != "background":
        raise UserError(
            f"{path}: the first class must be the background, number 0 of the masks. Received: "
            f"{names[0] if names else 'none'}. Masks of `reduce_zero_label` are not read."
        )
    return tuple(" ".join(name.split()) for name in names[1:])


def _list_by_split(directory, folder, wanted):
    """`(split, path in it without suffix)` -> path; images directly in the folder are `train`."""
    start = len(io.join(directory, folder)) + 1
    found = {}
    for path in io.list_files(io.join(io.escape(directory), folder, "**")):
        if wanted(path):
            split, slash, name = path[start:].replace(os.sep, "/").partition("/")
            found[(split, stem(name)) if slash else ("train", stem(split))] = path
    return found
