"""COCO's layout: `annotations/instances_*.json` and folders of images; masks drawn from its shapes.

Category ids, which have holes, become contiguous classes in their order.
"""

from collections import defaultdict

import numpy as np

from wsss.common import io
from wsss.common.errors import UserError
from wsss.data.sources.base import Item, Problem, Source


def read_coco(directory):
    """Lists a COCO directory.

    Args:
        directory: folder or `gs://…` with `annotations/instances_SPLIT.json` (or such files directly in it),
            and the images in `SPLIT/`, `images/SPLIT/` or `images/`.

    Returns:
        `Source`, its splits named as the files, without a year unless two years would coincide. Every
        annotated category of an image is a label, crowds included.

    Raises:
        UserError: there are no such files, or their categories differ.
    """
    root = io.escape(directory)
    paths = io.list_files(io.join(root, "annotations", "instances_*.json"))
    paths = paths or io.list_files(io.join(root, "instances_*.json"))
    if not paths:
        raise UserError(f"`--coco` must hold annotations/instances_*.json. Received: {directory}.")
    names = [path.rsplit("/", 1)[-1].removeprefix("instances_").removesuffix(".json") for path in paths]
    short = [name.rstrip("0123456789") or name for name in names]
    splits = short if len(set(short)) == len(short) else names
    categories, items, problems = None, [], []
    for path, name, split in zip(paths, names, splits):
        try:
            content = io.read_json(path)
            found = {category["id"]: category["name"] for category in content["categories"]}
            images, annotations = content["images"], content["annotations"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no COCO instances file: {error!r}.") from error
        if categories not in (None, found):
            raise UserError(f"{path} has other categories than {paths[0]}.")
        categories = found
        number = {category: index for index, category in enumerate(sorted(found))}
        of_image = defaultdict(list)
        for annotation in annotations:
            of_image[annotation["image_id"]].append(annotation)
        folder = _image_folder(directory, name, images)
        seen = set()
        for image in images:
            image_id = image["file_name"].rsplit(".", 1)[0]
            shapes = of_image[image["id"]]
            unknown = sorted({shape["category_id"] for shape in shapes} - number.keys())
            if unknown:
                detail = f"{path} gives it the category {unknown[0]}, which it does not list."
                problems.append(Problem(image_id, "table", "wrongly_labelled", detail, "Correct the file."))
            elif image_id in seen:
                detail = f"{path} lists it twice."
                problems.append(Problem(image_id, "table", "duplicate", detail, "The first one counts."))
            else:
                seen.add(image_id)
                shapes = sorted(shapes, key=lambda shape: -shape.get("area", 0))  # small ones on top
                drawn = [
                    [number[shape["category_id"]] + 1, shape.get("segmentation") or []] for shape in shapes
                ]
                labels = tuple(sorted({number[shape["category_id"]] for shape in shapes}))
                mask = {"height": image["height"], "width": image["width"], "shapes": drawn}
                items.append(Item(image_id, split, labels, io.join(folder, image["file_name"]), mask))
    class_names = tuple(categories[category] for category in sorted(categories))
    return Source(class_names, items, has_masks=True, problems=problems)


def draw_mask(mask):
    """Draws COCO's shapes, later ones over earlier ones.

    Args:
        mask: dict of `height`, `width` in pixels and `shapes`, a list of `[number, segmentation]`: the mask's
            number 1..K, and COCO's polygons or run lengths.

    Returns:
        uint8 (height, width), 0 where there is no shape.
    """
    canvas = np.zeros((mask["height"], mask["width"]), np.uint8)
    for number, segmentation in mask["shapes"]:
        if isinstance(segmentation, dict):
            canvas[decode_run_lengths(segmentation)] = number
        else:
            for polygon in segmentation:
                canvas[fill_polygon(polygon, *canvas.shape)] = number
    return canvas


def fill_polygon(polygon, height, width):
    """The pixels whose centres lie in a polygon (even-odd rule).

    Pillow's polygons hold every pixel that the outline touches, half a pixel more on each side.

    Args:
        polygon: x and y of the corners in turn; the corner of pixel 0 is at 0, its centre at 0.5.
        height, width: int, size of the image in pixels.

    Returns:
        bool (height, width).
    """
    corners = np.asarray(polygon, np.float64)[: len(polygon) // 2 * 2].reshape(-1, 2)
    x, y = corners.T[:, :, None]
    next_x, next_y = np.roll(corners, -1, axis=0).T[:, :, None]
    centres = np.arange(height) + 0.5
    edges, rows = np.nonzero((y <= centres) != (next_y <= centres))  # edges that cross a row of centres
    part = (centres[rows] - y[edges, 0]) / (next_y - y)[edges, 0]
    crossing = x[edges, 0] + part * (next_x - x)[edges, 0]
    toggles = np.zeros((height, width + 1), np.int32)
    np.add.at(toggles, (rows, np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)), 1)
    return np.cumsum(toggles, axis=1)[:, :width] % 2 == 1


def decode_run_lengths(segmentation):
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
    counts, value, shift = [], 0, 0
    for character in text.encode("ascii"):
        bits = character - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:  # the sign
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def _image_folder(directory, name, images):
    candidates = [
        io.join(directory, name),
        io.join(directory, "images", name),
        io.join(directory, "images"),
        str(directory),
    ]
    for image in images[:20]:  # some may be missing
        for folder in candidates:
            if io.exists(io.join(folder, image["file_name"])):
                return folder
    return candidates[0]
