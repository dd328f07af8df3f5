"""PASCAL VOC's layout: `JPEGImages`, tags in `Annotations`, masks in `SegmentationClass`, `ImageSets`."""

import difflib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

from wsss.common import io
from wsss.common.constants import check_class_count
from wsss.common.errors import UserError
from wsss.data.images import is_image
from wsss.data.sources.base import ListedImage, Listing, Problem
from wsss.data.sources.files import stem
from wsss.data.sources.folder import read_class_names
from wsss.data.sources.mask_coding import tags_of_masks

CLASS_NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
IGNORED_NAMES, IGNORED_COLOR = ("ignored", "ignored_255"), (224, 224, 192)  # 255 in a label map
_MASKS = ("SegmentationClass", "SegmentationClassAug")


def read_voc(devkit: str, classes: str = "", images: str = "") -> Listing:
    """Lists a VOC devkit.

    Args:
        devkit: folder or `gs://…` with `JPEGImages`, or the folder above it (`VOCdevkit`, `VOC2012`); of
            several years the last is taken.
        classes: file of class names in the order of the masks' numbers. By default the devkit's
            `class_names.txt` or `labelmap.txt`, else VOC's twenty where the tags are among them, else the
            tags in alphabetical order.
        images: folder of the images where there is no `JPEGImages`, as of CVAT's annotations.

    Returns:
        `Listing` with the splits `train` and `val` of `ImageSets/Segmentation` (of `Main` where there is no
        such folder), and `trainaug` where any folder lists it; it contains `train`, as in the published
        protocols. Where there is none of them, all lists of `ImageSets/Segmentation`.
        Tags are the objects of `Annotations`, difficult ones included, as the published protocols have it;
        where there is no `Annotations`, the classes that the masks show.

    Raises:
        UserError: there is no devkit, or its classes cannot be known.
    """
    root = _find_root(devkit)
    photographs = _list_by_stem(images) if images else _list_by_stem(root, "JPEGImages")
    if images and not photographs:
        raise UserError(f"`--images` must be a folder with images in it. Received: {images}.")
    annotations = _list_by_stem(root, "Annotations", ".xml")
    lists = _read_lists(root, photographs.keys() | annotations.keys())
    masks: dict[str, str] = {}
    for folder in _MASKS:
        masks = _list_by_stem(root, folder, ".png") | masks
    ids = sorted({image_id for members in lists.values() for image_id in members})
    names, colors, notes = _find_class_names(root, classes)
    if annotations:
        with ThreadPoolExecutor(16) as pool:
            tags = dict(zip(ids, pool.map(lambda image_id: _read_tags(annotations, image_id), ids)))
        if names is None:
            names, notes = _names_of_tags(tags, bool(masks))
        tags = {image_id: _number_tags(found, names) for image_id, found in tags.items()}
    else:
        if names is None:
            names, notes = CLASS_NAMES, ["the classes are taken to be PASCAL VOC's twenty"]
        check_class_count(len(names), "The devkit")
        notes = [*notes, "there is no Annotations: the tags are the classes that the masks show"]
        tags = tags_of_masks(masks, ids, names, colors)
    items, problems = _list_items(root, lists, tags, photographs, masks)
    problems = list(dict.fromkeys(problems))
    return Listing(names, items, has_masks=bool(masks), mask_colors=colors, problems=problems, notes=notes)


def _list_items(root, lists, tags, images, masks):
    items, problems = [], []
    for split, members in lists.items():
        seen = set()
        for image_id in members:
            labels, fault = tags[image_id]
            if image_id in seen:
                detail = f"The list `{split}` names it twice."
                problems.append(Problem(image_id, "table", "duplicate", detail, "The first one counts."))
            elif fault:
                problems.append(Problem(image_id, "table", *fault))
            else:
                seen.add(image_id)
                image = images.get(image_id) or io.join(root, "JPEGImages", f"{image_id}.jpg")
                items.append(ListedImage(image_id, split, tuple(sorted(labels)), image, masks.get(image_id)))
    return items, problems


def _find_root(devkit):
    pattern = io.escape(devkit)
    for parts in ((), ("VOC*",), ("VOCdevkit", "VOC*")):
        lists = io.list_files(io.join(pattern, *parts, "ImageSets", "*", "*.txt"))
        if lists:
            return sorted(lists)[-1].split("/ImageSets/")[0]
    raise UserError(f"`--voc` must hold a devkit (JPEGImages, Annotations, ImageSets). Received: {devkit}.")


def _list_by_stem(root, folder="", suffix=None):
    """Path in a folder, without suffix -> path of its images, or of the files with a suffix; a JPEG goes
    before others.
    """
    top = io.join(root, folder).rstrip("/") if folder else str(root).rstrip("/")
    start = len(top) + 1
    paths = io.list_files(io.join(io.escape(top), "**"))
    paths = [path for path in paths if (path.lower().endswith(suffix) if suffix else is_image(path))]
    paths.sort(key=lambda path: (path.lower().endswith((".jpg", ".jpeg")), path))
    return {path[start:].replace(os.sep, "/").rsplit(".", 1)[0]: path for path in paths}


def _read_lists(root, known):
    """dict of split to its image ids; an id may hold blanks."""
    paths = io.list_files(io.join(io.escape(root), "ImageSets", "*", "*.txt"))
    found = {tuple(path.split("/")[-2:]): path for path in paths}
    lists: dict[str, str] = {}
    for folder in ("Segmentation", "Main"):
        lists = lists or {
            split: found[folder, f"{split}.txt"]
            for split in ("train", "val")
            if (folder, f"{split}.txt") in found
        }
    augmented = [path for (_, name), path in found.items() if name == "trainaug.txt"]
    if augmented:
        lists["trainaug"] = augmented[0]
    if not lists:  # a tool's own, such as CVAT's `default`
        lists = {
            "train" if name == "default.txt" else name.removesuffix(".txt"): path
            for (folder, name), path in found.items()
            if folder == "Segmentation"
        }
    if not lists:
        raise UserError(f"{root}/ImageSets has neither train.txt nor val.txt in Segmentation or Main.")
    return {
        split: [_find_id(line.strip(), known) for line in io.read_text(path).splitlines() if line.strip()]
        for split, path in lists.items()
    }


def _find_id(line, known):
    """The image id in a line of a list: all of it, or what stands before a flag (1, 0, -1)."""
    flagged = re.fullmatch(r"(.*\S)\s+[+-]?[01]", line)
    candidates = [line, flagged[1] if flagged else line, stem(line), line.split()[0]]
    return next((candidate for candidate in candidates if candidate in known), candidates[1])


def _find_class_names(root, classes):
    """`(names, colors, notes)` of the classes in the order of the masks' numbers; None where no file says."""
    if classes:
        return read_class_names(classes), None, []
    for name in ("class_names.txt", "labelmap.txt"):
        for folder in (root, root.rsplit("/", 1)[0]):
            path = io.join(folder, name)
            if io.exists(path):
                notes = [f"the classes and their numbers are those of {name}"]
                if name == "labelmap.txt":
                    return (*_parse_label_map(io.read_text(path), path), notes)
                return read_class_names(path), None, notes
    return None, None, []


def _parse_label_map(text, path):
    """`(names, colors)` of CVAT's `name:r,g,b:parts:actions`, the background first among the colors."""
    rows = [line.split(":") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    named = {}
    for row in rows:
        color = re.fullmatch(r"\s*(\d{1,3}),\s*(\d{1,3}),\s*(\d{1,3})\s*", row[1]) if len(row) > 1 else None
        named[row[0].strip()] = tuple(map(int, color.groups())) if color else None
    unknown = [name for name, color in named.items() if color == IGNORED_COLOR and name in IGNORED_NAMES]
    for name in unknown:
        del named[name]
    background = next((name for name in named if name.lower().strip("_") == "background"), None)
    names = tuple(name for name in named if name and name != background)
    listed = [named[name] for name in names]
    colors = [named.get(background) or (0, 0, 0), *(color for color in listed if color is not None)]
    if not names or len(named) + len(unknown) != len(rows):
        raise UserError(f"{path} must hold lines `name:r,g,b:parts:actions`, each name once.")
    usable = None not in listed and len(set(colors)) == len(colors) and max(map(max, colors)) < 256
    return names, colors if usable else None


def _names_of_tags(tags, has_masks):
    found = set().union(*(names for names, _ in tags.values()))
    if found <= set(CLASS_NAMES):
        return CLASS_NAMES, []
    notes = ["the masks' numbers are taken to follow the alphabet; `--classes` gives another order"]
    return tuple(sorted(found)), notes if has_masks else []


def _number_tags(found, names):
    """Class names -> `(classes, None)`, or `((), fault)`."""
    tags, fault = found
    unknown = sorted(set(tags) - set(names))
    if fault or not unknown:
        return {names.index(name) for name in tags if name in names}, fault
    near = difflib.get_close_matches(unknown[0], names, n=1)
    detail = f"It is tagged `{unknown[0]}`, which is no class." + (f" `{near[0]}`?" if near else "")
    return (), ("wrongly_labelled", detail, "Correct the tag, or the list of classes.")


def _read_tags(annotations, image_id):
    """`(class names, None)`, or `((), (reason, detail, remedy))`."""
    name = f"Annotations/{image_id}.xml"
    if image_id not in annotations:
        return (), ("unlabelled", f"{name} is missing.", "Add it, or shorten the list.")
    try:
        tree = _parse_xml(io.read_bytes(annotations[image_id]))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return (), ("wrongly_labelled", f"{name} is damaged: {error}.", "Copy it again.")
    for element in tree.iter():  # a namespace says nothing here
        element.tag = element.tag.rpartition("}")[2]
    names = {" ".join((element.findtext("name") or "").split()) for element in tree.iter("object")}
    return names - {""}, None


def _parse_xml(data):
    """An XML document in any encoding that Python knows; the parser's own are few."""
    declared = re.match(rb"<\?xml[^>]*?encoding\s*=\s*[\"']([\w.:-]+)[\"'][^>]*\?>", data)
    if not declared or declared[1].lower() in (b"utf-8", b"utf-16", b"utf8"):
        return ElementTree.fromstring(data)
    text = data[declared.end() :].decode(declared[1].decode("ascii"))
    return ElementTree.fromstring(text)
