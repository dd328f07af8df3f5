"""Label Studio's tasks as JSON: brushes and polygons that were drawn, or else predicted."""

import re
from typing import Any
from urllib.parse import unquote

import numpy as np

from wsss.common import io
from wsss.common.constants import IGNORE
from wsss.common.errors import UserError
from wsss.data.images import MAX_PIXELS, MAX_SIDE, is_image
from wsss.data.sources.base import ListedImage, Listing, Problem, as_class_names, is_text
from wsss.data.sources.files import image_ids, list_folder
from wsss.data.sources.folder import read_class_names
from wsss.data.targets.brush import decode_brush
from wsss.data.targets.label_studio import IGNORED
from wsss.data.targets.run_lengths import encode_run_lengths, regions_of

_KINDS = ("brushlabels", "polygonlabels")
_FARTHEST = 1e6  # pixels that a corner may lie off the image's own


def read_label_studio(tasks: str, images: str = "", classes: str = "") -> Listing:
    """Lists what Label Studio's export "JSON" holds, or the tasks that `wsss.export` wrote.

    Of a task the last annotation that was not skipped counts, and where there is none its last prediction.

    Args:
        tasks: the JSON file, or a folder with `tasks.json`.
        images: folder of the images; by default `images` beside the file.
        classes: file of class names in the order of the masks' numbers; by default `class_names.txt` beside
            the file, else the names of all labels in alphabetical order.

    Returns:
        `Listing`; the tags of an image are the classes that are drawn in it.

    Raises:
        UserError: there is no such file, or no image.
    """
    path = tasks if tasks.lower().endswith(".json") else io.join(tasks, "tasks.json")
    if not io.exists(path):
        raise UserError(f"`--label_studio` must be a JSON file of tasks. Received: {tasks}.")
    content = io.read_json(path)
    if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
        raise UserError(f"{path} must hold a list of tasks: export as `JSON`, not `JSON-MIN`.")
    folder = path[: -len(path.replace("\\", "/").rsplit("/", 1)[-1])] or "."
    own = io.join(folder, "class_names.txt")
    names = read_class_names(classes or own) if classes or io.exists(own) else _names_of_labels(content, path)
    photographs = images or io.join(folder, "images")
    files = {name: full for name, full in list_folder(photographs).paths.items() if is_image(name)}
    find = _Finder(files)
    items: list[ListedImage] = []
    problems: list[Problem] = []
    seen: set[tuple[str, str]] = set()
    for task in content:
        entry = _read_task(task, find, names)
        if isinstance(entry, Problem):
            problems.append(entry)
        elif (entry.split, entry.image_id) in seen:
            remedy = "The first one counts."
            problems.append(Problem(entry.image_id, "table", "duplicate", "Two tasks are about it.", remedy))
        else:
            seen.add((entry.split, entry.image_id))
            items.append(entry)
    return Listing(names, items, has_masks=True, problems=problems)


def _read_task(task: dict[str, Any], find: "_Finder", names: tuple[str, ...]) -> ListedImage | Problem:
    """The image of a task with its shapes, or what is wrong with it."""
    data = task.get("data")
    data = data if isinstance(data, dict) else {}
    address = data.get("image")
    name = find(address) if is_text(address) else None
    shown = address if is_text(address) else f"task {task.get('id')}"
    if name is None:
        remedy = "Name the folder of the images by --images."
        return Problem(shown, "image", "missing", "No image has the name of its address.", remedy)
    image_id, path = name
    recorded = data.get("image_id")  # as `wsss.export` writes it
    image_id = recorded if is_text(recorded) else image_id
    try:
        results = _results(task)
        if results is None:
            return Problem(
                image_id, "mask", "unlabelled", "It has neither annotation nor prediction.", "Add one."
            )
        size, shapes = _shapes(results, names)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        return Problem(
            image_id, "mask", "mask_corrupt", f"Its shapes cannot be read: {error}.", "Correct them."
        )
    labels = tuple(sorted({number - 1 for number, _ in shapes if number != IGNORE}))
    split = data.get("split")
    split = split if isinstance(split, str) and re.fullmatch(r"\w+", split) else "train"
    mask = {"height": size[0], "width": size[1], "shapes": shapes} if size else None
    return ListedImage(image_id, split, labels, path, mask)


def _results(task: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The results that count, None where there are none.

    Raises:
        ValueError: there is something else in their place.
    """
    drawn = [each for each in _objects(task, "annotations") if not each.get("was_cancelled")]
    chosen = (drawn or _objects(task, "predictions"))[-1:]
    return _objects(chosen[0], "result") if chosen else None


def _objects(holder: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects that may be left out."""
    found = holder.get(key) or []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"`{key}` must be a list of objects")
    return found


def _shapes(results, names):
    """`(size, [number, segmentation] each)`, those of COCO; the size is None where nothing is drawn."""
    size, shapes = None, []
    for result in results:
        kind, value = result["type"], result["value"]
        if kind not in _KINDS:
            continue
        height, width = size = _size(result)
        (label,) = value[kind]
        number = IGNORE if label == IGNORED and label not in names else names.index(label) + 1
        if kind == "polygonlabels":
            corners = np.asarray(value["points"], np.float64) * [width / 100, height / 100]
            if not (np.abs(corners) < _FARTHEST).all():  # also of what is no number
                raise ValueError("a corner of a polygon is far off the image")
            shapes.append([number, [corners.ravel().tolist()]])
            continue
        if not isinstance(value["rle"], list):
            raise ValueError("`rle` must be a list of bytes")
        inside = decode_brush(value["rle"], height, width).astype(np.uint8)
        shapes += [[number, encode_run_lengths(region, height, width)] for region in regions_of(inside)]
    return size, shapes


def _size(result):
    """`(height, width)` in pixels, checked before anything of that size is made."""
    sides = [result[f"original_{side}"] for side in ("height", "width")]
    if not all(type(side) in (int, float) and 1 <= side <= MAX_SIDE for side in sides):
        raise ValueError(f"an image of {sides[1]} x {sides[0]} pixels")
    height, width = map(int, sides)
    if height * width > MAX_PIXELS:
        raise ValueError(f"an image of {width} x {height} pixels, more than {MAX_PIXELS}")
    return height, width


def _names_of_labels(content, path):
    found: list[Any] = []
    for task in content:
        try:
            results = _results(task) or []
        except ValueError:  # said later, of this task
            continue
        for result in results:
            kind, value = result.get("type"), result.get("value")
            labels = value.get(kind) if kind in _KINDS and isinstance(value, dict) else None
            if isinstance(labels, list):
                found += [label for label in labels if label != IGNORED and label not in found]
    if not found:
        raise UserError(f"{path} holds no brush and no polygon. Name the classes by `--classes`.")
    return tuple(sorted(as_class_names(found, path)))


class _Finder:
    """Finds the image of an address: by its path's end, or without the prefix of an upload."""

    def __init__(self, files):
        ids = image_ids(files)
        self._by_name = {name: (ids[name], full) for name, full in files.items()}

    def __call__(self, address):
        parts = unquote(address.split("?d=")[-1]).split("/")
        for start in range(len(parts)):
            found = self._by_name.get("/".join(parts[start:]))
            if found:
                return found
        return self._by_name.get(re.sub(r"^[0-9a-f]{8}-", "", parts[-1]))
