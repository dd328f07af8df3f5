"""COCO's layout: `annotations/instances_*.json` and folders of images; masks drawn from its shapes.

Category ids, which have holes, become contiguous classes in their order.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsss.common import io
from wsss.common.constants import IGNORE
from wsss.common.errors import UserError
from wsss.data.sources.base import ListedImage, Listing, Problem, is_background, is_text
from wsss.data.sources.files import image_ids


@dataclass(frozen=True)
class _Annotations:
    """A COCO file, checked: every id a str, every field that is needed there.

    Attributes:
        path: the file.
        categories: category id -> name, in the order of the classes.
        images: image id -> `(file_name, height, width)`.
        shapes: image id -> `(category id, segmentation, area)` each.
        unmatched: the annotations whose image is not listed, as text for a message.
        ignored: id of the category whose pixels are unknown, as `wsss.export` writes it; None without one.
        background: id of the category that is called `background`; None without one.
    """

    path: str
    categories: dict[str, str]
    images: dict[str, tuple[str, int, int]]
    shapes: dict[str, list[tuple[str, Any, float]]]
    unmatched: list[str]
    ignored: str | None = None
    background: str | None = None

    @property
    def classes(self) -> dict[str, str]:
        """The categories but the ignored one and the background."""
        others = (self.ignored, self.background)
        return {category: name for category, name in self.categories.items() if category not in others}


def read_coco(directory: str, images: str = "") -> Listing:
    """Lists a COCO directory.

    Args:
        directory: folder or `gs://…` with `annotations/instances_SPLIT.json` (or such files directly in it),
            and the images in `SPLIT/`, `images/SPLIT/` or `images/`.
        images: folder of the images where they are not there.

    Returns:
        `Listing`, its splits named as the files, without a year unless two years would coincide. Every
        annotated category of an image is a label, crowds included.

    Raises:
        UserError: there are no such files, a field is missing or malformed, no annotation belongs to an
            image, or the files' categories differ.
    """
    root = io.escape(directory)
    paths = io.list_files(io.join(root, "annotations", "instances_*.json"))
    paths = paths or io.list_files(io.join(root, "instances_*.json"))
    if not paths:
        raise UserError(f"`--coco` must hold annotations/instances_*.json. Received: {directory}.")
    names = [path.rsplit("/", 1)[-1].removeprefix("instances_").removesuffix(".json") for path in paths]
    short = [name.rstrip("0123456789") or name for name in names]
    splits = short if len(set(short)) == len(short) else names
    files = [_read_file(path) for path in paths]
    items: list[ListedImage] = []
    problems: list[Problem] = []
    notes: list[str] = []
    for name, split, content in zip(names, splits, files):
        if content.classes != files[0].classes:
            raise UserError(f"{content.path} has other categories than {paths[0]}.")
        folder = images or _image_folder(directory, name, content)
        _list_split(content, split, folder, items, problems)
        if content.background is not None:
            name = content.categories[content.background]
            notes.append(f"category {content.background} of {content.path}, `{name}`, is no class")
        if content.unmatched:
            notes.append(
                f"annotations of {content.path} whose image is not listed: {len(content.unmatched)}, "
                f"such as {content.unmatched[0]}"
            )
    unknown = sum(not _is_complete(item.mask) for item in items)
    if unknown:
        notes.append(f"images with annotations that have no shape, their other pixels unknown: {unknown}")
    class_names = tuple(files[0].classes.values())
    return Listing(class_names, items, has_masks=True, problems=problems, notes=notes)


def _list_split(content, split, folder, items, problems):
    """Appends the items and problems of one file."""
    number = {category: index for index, category in enumerate(content.classes)}
    value = {category: index + 1 for category, index in number.items()}
    if content.ignored is not None:
        value[content.ignored] = IGNORE
    if content.background is not None:
        value[content.background] = 0
    ids = image_ids({name for name, _, _ in content.images.values()})
    seen = set()
    for image, (file_name, height, width) in content.images.items():
        shapes = content.shapes[image]
        unlisted = sorted({category for category, _, _ in shapes} - value.keys())
        if unlisted:
            detail = f"{content.path} gives it the category {unlisted[0]}, which it does not list."
            problems.append(Problem(ids[file_name], "table", "wrongly_labelled", detail, "Correct the file."))
        elif file_name in seen:
            detail = f"{content.path} lists it twice."
            problems.append(Problem(ids[file_name], "table", "duplicate", detail, "The first one counts."))
        else:
            seen.add(file_name)
            shapes = sorted(shapes, key=lambda shape: -shape[2])  # small ones on top
            drawn = [
                [value[category], _within(segmentation, height, width)]
                for category, segmentation, _ in shapes
            ]
            labels = tuple(sorted({number[category] for category, _, _ in shapes if category in number}))
            mask = {"height": height, "width": width, "shapes": drawn}
            items.append(ListedImage(ids[file_name], split, labels, io.join(folder, file_name), mask))


def _read_file(path) -> _Annotations:
    """Reads and checks a file; what is wrong names the entry and the field."""
    content = io.read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is no COCO instances file: it holds no object.")
    categories, images, ignored = {}, {}, None
    for where, entry in _entries(content, "categories", path):
        category = _field(entry, "id", _as_id, where)
        if category in categories:
            raise UserError(f"{where}: its id {category} is that of another category. Give it its own.")
        categories[category] = _field(entry, "name", _as_name, where)
        if _is_ignored(category, entry):
            ignored = category
    repeated = [name for name, count in Counter(categories.values()).items() if count > 1]
    if repeated:
        owners = [category for category, name in categories.items() if name == repeated[0]]
        raise UserError(f"{path}: the categories {' and '.join(owners)} are both called `{repeated[0]}`.")
    for where, entry in _entries(content, "images", path):
        image = _field(entry, "id", _as_id, where)
        if image in images:
            raise UserError(f"{where}: its id {image} is that of another image. Give it its own.")
        size = tuple(_field(entry, side, _as_side, where) for side in ("height", "width"))
        images[image] = (_field(entry, "file_name", _as_file_name, where), *size)
    shapes, unmatched, count = defaultdict(list), [], 0
    for where, entry in _entries(content, "annotations", path):
        image = _field(entry, "image_id", _as_id, where)
        category = _field(entry, "category_id", _as_id, where)
        segmentation = _usable_shapes(entry.get("segmentation"))
        area = entry.get("area")
        area = float(area) if _is_number(area) else shape_area(segmentation)
        shapes[image].append((category, segmentation, area))
        count += 1
        if image not in images:
            unmatched.append(f"{where.removeprefix(path + ': ')} of image {image}")
    if count and len(unmatched) == count:
        raise UserError(
            f"{path}: none of the {count} annotations belongs to a listed image, such as {unmatched[0]}; "
            f"the images are {', '.join(list(images)[:3]) or '(none)'}. Correct `image_id`."
        )
    ordered = {category: categories[category] for category in sorted(categories, key=_id_order)}
    background = next((category for category, name in ordered.items() if is_background(name)), None)
    return _Annotations(path, ordered, images, shapes, unmatched, ignored, background)


def _is_ignored(category, entry):
    """Whether a category is that of pixels of no class (`wsss.data.targets.coco.IGNORE_CATEGORY`)."""
    return (category, entry["name"], entry.get("supercategory")) == (str(IGNORE), "ignore", "void")


def _entries(content, key, path):
    """Yields `(where, entry)` of a list of objects; `where` names the entry in a message."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise UserError(
            f"{path} is no COCO instances file: `{key}` must be a list. Received: {_shown(entries)}."
        )
    singular = {"categories": "category", "images": "image", "annotations": "annotation"}[key]
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: {singular} {position} must be an object. Received: {_shown(entry)}.")
        yield f"{path}: {singular} {entry.get('id', f'at position {position}')}", entry


def _field(entry: Mapping, name: str, convert: Callable, where: str):
    """A field that is needed, converted.

    Raises:
        UserError: it is missing or malformed.
    """
    try:
        return convert(entry.get(name))
    except ValueError as error:
        received = _shown(entry[name]) if name in entry else "nothing"
        raise UserError(f"{where}: `{name}` must be {error}. Received: {received}.") from error


def _as_id(value):
    """An id as text, so that 1, "1" and "0001" are one."""
    if _is_number(value) and float(value).is_integer():
        return str(int(value))
    if is_text(value):
        text = value.strip()
        return str(int(text)) if text.isascii() and text.isdigit() else text
    raise ValueError("a whole number or text")


def _id_order(identifier):
    """Numbers by their value, then texts."""
    is_number = identifier.removeprefix("-").isdecimal() and identifier.isascii()
    return (0, int(identifier), "") if is_number else (1, 0, identifier)


def _as_name(value):
    if _is_number(value):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if is_text(value):
        return " ".join(value.split())
    raise ValueError("a name")


def _as_file_name(value):
    if is_text(value):
        return value
    raise ValueError("the name of a file")


def _as_side(value):
    if _is_number(value) and value >= 1 and float(value).is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and int(value):
        return int(value)
    raise ValueError("a number of pixels, at least 1")


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -(2**63) < value < 2**63


def _shown(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _usable_shapes(segmentation):
    """The run lengths, or the polygons that can be drawn; None stands for a shape that is not known."""
    if isinstance(segmentation, dict):
        return segmentation if segmentation.get("counts") and segmentation.get("size") else [None]
    if not isinstance(segmentation, list):
        return [None]
    if segmentation and all(_is_number(value) for value in segmentation):
        segmentation = [segmentation]  # one polygon without the list around it
    polygons = [
        polygon if isinstance(polygon, list) and len(polygon) >= 6 and all(map(_is_number, polygon)) else None
        for polygon in segmentation
    ]
    return polygons or [None]


def _within(segmentation, height, width):
    """The shapes of an object, or an unknown one if no polygon meets the image: it is of another size."""
    if isinstance(segmentation, dict):
        return segmentation
    corners = [np.asarray(polygon, np.float64) for polygon in segmentation if polygon is not None]
    meets = any(
        xy[::2].min() < width and xy[::2].max() > 0 and xy[1::2].min() < height and xy[1::2].max() > 0
        for xy in corners
    )
    return segmentation if meets or not corners else [None]


def shape_area(segmentation: Any) -> float:
    """Area in pixels of run lengths or polygons, by which the order in which they are drawn is chosen."""
    if isinstance(segmentation, dict):
        try:
            counts = segmentation["counts"]
            return float(sum((_decompress(counts) if isinstance(counts, str) else counts)[1::2]))
        except (ValueError, TypeError):  # said when it is drawn, of the image that it is in
            return 0.0
    total = 0.0
    for polygon in segmentation:
        if polygon is not None:
            x, y = np.asarray(polygon[: len(polygon) // 2 * 2], np.float64).reshape(-1, 2).T
            total += abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    return total


def _is_complete(mask):
    return all(isinstance(shapes, dict) or None not in shapes for _, shapes in mask["shapes"])


def draw_mask(mask: Mapping) -> np.ndarray:
    """Draws COCO's shapes, later ones over earlier ones.

    Args:
        mask: dict of `height`, `width` in pixels and `shapes`, a list of `[number, segmentation]`: the mask's
            number 1..K, and COCO's polygons or run lengths, None in the place of a polygon that is not known.

    Returns:
        uint8 (height, width). Where there is no shape it is 0, or 255 if a shape is not known: the object
        may be there.

    Raises:
        ValueError: run lengths do not fill the mask.
    """
    canvas = np.full((mask["height"], mask["width"]), 0 if _is_complete(mask) else IGNORE, np.uint8)
    for number, segmentation in mask["shapes"]:
        if isinstance(segmentation, dict):
            if tuple(segmentation["size"]) != canvas.shape:
                raise ValueError(f"run lengths of size {segmentation['size']} in a mask of {canvas.shape}")
            canvas[decode_run_lengths(segmentation)] = number
        else:
            for polygon in segmentation:
                if polygon is not None:
                    canvas[fill_polygon(polygon, *canvas.shape)] = number
    return canvas


def fill_polygon(polygon: Sequence[float], height: int, width: int) -> np.ndarray:
    """The pixels whose centers lie in a polygon (even-odd rule).

    Pillow's polygons hold every pixel that the outline touches, half a pixel more on each side.

    Args:
        polygon: x and y of the corners in turn; the corner of pixel 0 is at 0, its center at 0.5.
        height, width: int, size of the image in pixels.

    Returns:
        bool (height, width).
    """
    corners = np.asarray(polygon, np.float64)[: len(polygon) // 2 * 2].reshape(-1, 2)
    x, y = corners.T[:, :, None]
    next_x, next_y = np.roll(corners, -1, axis=0).T[:, :, None]
    centers = np.arange(height) + 0.5
    edges, rows = np.nonzero((y <= centers) != (next_y <= centers))  # edges that cross a row of centers
    part = (centers[rows] - y[edges, 0]) / (next_y - y)[edges, 0]
    crossing = x[edges, 0] + part * (next_x - x)[edges, 0]
    toggles = np.zeros((height, width + 1), np.int32)
    np.add.at(toggles, (rows, np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)), 1)
    return np.cumsum(toggles, axis=1)[:, :width] % 2 == 1


def decode_run_lengths(segmentation: Mapping) -> np.ndarray:
    """The pixels in COCO's run lengths, as plain numbers or as its compressed string.

    Args:
        segmentation: dict of `size` (height, width) and `counts`: lengths of runs of pixels outside and
            inside in turn, down the columns; a list of int, or a string of them.

    Returns:
        bool (height, width).

    Raises:
        ValueError: the lengths do not fill the size.
    """
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = _decompress(counts)
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise ValueError(f"Run lengths of {sum(counts)} pixels do not fill {width}x{height}.")
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return inside.reshape(width, height).T


def _decompress(text):
    """Numbers in COCO's string: 5 bits a character, low ones first, bit 6 set where more follow.

    From the third on a number is the difference to the one before last.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text.encode("ascii"):
        bits = character - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if shift > 60:
            raise ValueError("a run length of more than 60 bits")
        if not bits & 0x20:
            if bits & 0x10:  # the sign
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def _image_folder(directory, name, content):
    candidates = [
        io.join(directory, name),
        io.join(directory, "images", name),
        io.join(directory, "images"),
        str(directory),
    ]
    for file_name, _, _ in list(content.images.values())[:20]:  # some may be missing
        for folder in candidates:
            if io.exists(io.join(folder, file_name)):
                return folder
    return candidates[0]
