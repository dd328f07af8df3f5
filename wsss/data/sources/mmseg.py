"""Folders of images and of masks, a split each, as MMSegmentation and FiftyOne have them."""

from typing import Any

from wsss.common import io
from wsss.common.errors import UserError
from wsss.data.images import is_image
from wsss.data.sources.base import ListedImage, Listing, Problem, as_class_names, is_background
from wsss.data.sources.files import list_by_split
from wsss.data.sources.folder import classes_unknown, read_class_names
from wsss.data.sources.mask_coding import tags_of_masks

_METAINFO, _MASK_TARGETS = "metainfo.json", "mask_targets.json"


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
    return _list_pairs(directory, "--mmseg", names, "img_dir/{split}", "ann_dir/{split}")


def read_fiftyone(directory: str, classes: str = "") -> Listing:
    """Lists an `ImageSegmentationDirectory` of FiftyOne, one a split, whose masks have 255 for unknown.

    Args:
        directory: folder or `gs://…` with `SPLIT/data` and `SPLIT/labels`, or `data` and `labels`.
        classes: file of class names in the order of the masks' numbers; by default `mask_targets.json` in the
            folder, the class of each number.

    Returns:
        `Listing`; the tags of an image are the classes that its mask shows.

    Raises:
        UserError: there are no such folders, or its classes cannot be known.
    """
    names = read_class_names(classes) if classes else _read_mask_targets(directory)
    return _list_pairs(directory, "--fiftyone", names, "{split}/data", "{split}/labels")


def _list_pairs(directory, flag, names, image_layout, mask_layout):
    images = list_by_split(directory, image_layout, is_image)
    if not images:
        layouts = " and ".join(layout.format(split="SPLIT") for layout in (image_layout, mask_layout))
        raise UserError(f"`{flag}` must hold {layouts}. Received: {directory}.")
    masks = list_by_split(directory, mask_layout, lambda path: path.lower().endswith(".png"))
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


def _read_mask_targets(directory):
    """The names in a file of `{"0": "background", "1": …}`."""
    path = io.join(directory, _MASK_TARGETS)
    if not io.exists(path):
        raise classes_unknown(directory, _MASK_TARGETS)
    targets = {key: name for key, name in io.read_object(path).items() if key not in ("0", "255")}
    if not targets or targets.keys() != {str(number) for number in range(1, len(targets) + 1)}:
        raise UserError(f"{path} must give a name to each of the numbers 1, 2, … of the masks.")
    return as_class_names((targets[str(number)] for number in range(1, len(targets) + 1)), path)


def _read_metainfo(directory):
    path = io.join(directory, _METAINFO)
    if not io.exists(path):
        raise classes_unknown(directory, _METAINFO)
    names: Any = io.read_object(path).get("classes")
    if not isinstance(names, list):
        raise UserError(f"{path} must hold `classes`, a list of names with the background first.")
    names = as_class_names(names, path)
    if len(names) < 2 or not is_background(names[0]):
        raise UserError(
            f"{path}: the first class must be the background, number 0 of the masks. Received: "
            f"{names[0]}. Masks of `reduce_zero_label` are not read."
        )
    return names[1:]
