"""PASCAL VOC's layout: `JPEGImages`, tags in `Annotations`, masks in `SegmentationClass`, `ImageSets`."""

from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

from wsss.common import io
from wsss.common.errors import UserError
from wsss.data.sources.base import Item, Problem, Source

CLASS_NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_MASKS = ("SegmentationClass", "SegmentationClassAug")


def read_voc(devkit):
    """Lists a VOC devkit.

    Args:
        devkit: folder or `gs://…` with `JPEGImages`, or the folder above it (`VOCdevkit`, `VOC2012`); of
            several years the last is taken.

    Returns:
        `Source` with the splits `train` and `val` of `ImageSets/Segmentation` (of `Main` where there is no
        such folder), and `trainaug` where any folder lists it; it contains `train`, as in the published
        protocols.
        Tags are the objects of `Annotations`, difficult ones included, as the published protocols have it.

    Raises:
        UserError: there is no devkit.
    """
    root = _find_root(devkit)
    lists = _read_lists(root)
    masks = {}
    for folder in _MASKS:
        for path in io.list_files(io.join(io.escape(root), folder, "*.png")):
            masks.setdefault(_stem(path), path)
    ids = sorted({image_id for members in lists.values() for image_id in members})
    with ThreadPoolExecutor(16) as pool:
        tags = dict(zip(ids, pool.map(lambda image_id: _read_tags(root, image_id), ids)))
    found = set().union(*(names for names, _ in tags.values()))
    class_names = CLASS_NAMES if found <= set(CLASS_NAMES) else tuple(sorted(found))
    number = {name: index for index, name in enumerate(class_names)}
    items, problems = [], []
    for split, members in lists.items():
        seen = set()
        for image_id in members:
            names, fault = tags[image_id]
            if image_id in seen:
                detail = f"The list `{split}` names it twice."
                problems.append(Problem(image_id, "table", "duplicate", detail, "The first one counts."))
            elif fault:
                problems.append(Problem(image_id, "table", *fault))
            else:
                seen.add(image_id)
                labels = tuple(sorted(number[name] for name in names))
                image = io.join(root, "JPEGImages", f"{image_id}.jpg")
                items.append(Item(image_id, split, labels, image, masks.get(image_id)))
    return Source(class_names, items, has_masks=bool(masks), problems=list(dict.fromkeys(problems)))


def _find_root(devkit):
    pattern = io.escape(devkit)
    for parts in ((), ("VOC*",), ("VOCdevkit", "VOC*")):
        lists = io.list_files(io.join(pattern, *parts, "ImageSets", "*", "*.txt"))
        if lists:
            return sorted(lists)[-1].split("/ImageSets/")[0]
    raise UserError(f"`--voc` must hold a devkit (JPEGImages, Annotations, ImageSets). Received: {devkit}.")


def _read_lists(root):
    """dict of split to its image ids."""
    paths = io.list_files(io.join(io.escape(root), "ImageSets", "*", "*.txt"))
    found = {tuple(path.split("/")[-2:]): path for path in paths}
    lists = {}
    for folder in ("Segmentation", "Main"):
        lists = lists or {
            split: found[folder, f"{split}.txt"]
            for split in ("train", "val")
            if (folder, f"{split}.txt") in found
        }
    augmented = [path for (_, name), path in found.items() if name == "trainaug.txt"]
    if augmented:
        lists["trainaug"] = augmented[0]
    if not lists:
        raise UserError(f"{root}/ImageSets has neither train.txt nor val.txt in Segmentation or Main.")
    return {
        split: [line.split()[0] for line in io.read_text(path).splitlines() if line.strip()]
        for split, path in lists.items()
    }


def _read_tags(root, image_id):
    """`(class names, None)`, or `((), (reason, detail, remedy))`."""
    path = io.join(root, "Annotations", f"{image_id}.xml")
    try:
        tree = ElementTree.fromstring(io.read_bytes(path))
    except FileNotFoundError:
        return (), ("unlabelled", f"Annotations/{image_id}.xml is missing.", "Add it, or shorten the list.")
    except ElementTree.ParseError as error:
        return (), ("wrongly_labelled", f"Annotations/{image_id}.xml is damaged: {error}.", "Copy it again.")
    return {element.findtext("name", "").strip() for element in tree.iter("object")} - {""}, None


def _stem(path):
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
