"""YOLO's segmentation layout: `images/SPLIT`, `labels/SPLIT/ID.txt` of polygons, names in `data.yaml`."""

from concurrent.futures import ThreadPoolExecutor

import yaml

from wsss.common import io
from wsss.common.errors import UserError
from wsss.data.images import BadImage, is_image, upright_size
from wsss.data.sources.base import ListedImage, Listing, Problem, as_class_names
from wsss.data.sources.coco import shape_area
from wsss.data.sources.files import list_by_split
from wsss.data.sources.folder import classes_unknown, read_class_names


def read_yolo(directory: str, classes: str = "") -> Listing:
    """Lists a YOLO data set with polygons.

    Args:
        directory: folder or `gs://…` with `images/SPLIT` and `labels/SPLIT`, sub-folders included.
        classes: file of class names in order; by default `class_names.txt`, or `names` of `data.yaml`.

    Returns:
        `Listing`. An image without a file of labels is background; an object with a box in place of a polygon
        makes pixels unknown.

    Raises:
        UserError: there are no such folders, or its classes cannot be known.
    """
    names = _find_names(directory, classes)
    images = list_by_split(directory, "images/{split}", is_image)
    if not images:
        raise UserError(f"`--yolo` must hold images/SPLIT and labels/SPLIT. Received: {directory}.")
    labels = list_by_split(directory, "labels/{split}", lambda path: path.lower().endswith(".txt"))

    def read(key):
        split, image_id = key
        return _read_item(image_id, split, images[key], labels.get(key), len(names))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, images))
    items = [each for each in found if isinstance(each, ListedImage)]
    problems = [each for each in found if isinstance(each, Problem)]
    alone = sum(key not in labels for key in images)
    notes = [f"images without a file of labels, taken as background: {alone}"] if alone else []
    return Listing(names, items, has_masks=True, problems=problems, notes=notes)


def _read_item(image_id, split, image, labels, classes):
    try:
        height, width = upright_size(io.read_bytes(image))
        objects = _parse(io.read_text(labels), height, width, classes) if labels else []
    except BadImage as error:
        return Problem(image_id, "image", error.reason, error.detail, error.remedy)
    except ValueError as error:
        return Problem(image_id, "mask", "mask_corrupt", f"{labels}: {error}.", "Correct the file.")
    objects.sort(key=lambda shape: -shape_area(shape[1]))  # small ones on top
    mask = {"height": height, "width": width, "shapes": objects}
    numbers = {number - 1 for number, _ in objects}
    return ListedImage(image_id, split, tuple(sorted(numbers)), image, mask)


def _parse(text, height, width, classes):
    """`[number, [polygon]]` of each line; None in the place of the polygon of a box."""
    objects: list[list] = []
    for row, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        first, *values = line.split()
        numbers = [float(value) for value in values]
        if not first.isdecimal() or int(first) >= classes:
            raise ValueError(f"line {row} has the class {first}, which is none of the {classes}")
        if not all(-0.5 < number < 1.5 for number in numbers):
            raise ValueError(f"line {row} has a coordinate beyond [0, 1]")
        if len(numbers) >= 6 and len(numbers) % 2 == 0:
            scale = (width, height)
            polygon = [number * scale[index % 2] for index, number in enumerate(numbers)]
            objects.append([int(first) + 1, [polygon]])
        elif len(numbers) == 4:
            objects.append([int(first) + 1, [None]])
        else:
            raise ValueError(
                f"line {row} has {len(numbers)} numbers; a polygon has 6 or more, x and y in turn"
            )
    return objects


def _find_names(directory, classes):
    own, path = io.join(directory, "class_names.txt"), io.join(directory, "data.yaml")
    if classes or io.exists(own):
        return read_class_names(classes or own)
    if not io.exists(path):
        raise classes_unknown(directory, "data.yaml")
    try:
        content = yaml.load(io.read_text(path), yaml.BaseLoader)  # all values as text: `no` is a name too
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or names.keys() != {str(number) for number in range(len(names))}:
        raise UserError(f"{path} must hold `names`: a list, or the name of each number from 0 on.")
    return as_class_names((names[str(number)] for number in range(len(names))), path)
