"""Images with their masks, joined from where both lie: label maps and photographs, or a collection."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wsss.common import io
from wsss.common.constants import IGNORE
from wsss.common.errors import UserError
from wsss.common.file_names import file_name, image_id_of
from wsss.data.dataset import Collection, open_collection
from wsss.data.images import BadImage, decode_mask, is_image, upright_size
from wsss.data.label_maps import files_by_id
from wsss.data.sources.base import Problem
from wsss.data.sources.files import image_ids, list_folder
from wsss.data.sources.folder import read_class_names
from wsss.data.sources.mask_coding import check_masks
from wsss.data.targets.base import MaskedImage
from wsss.pipeline.output import MASKS, LabelSettings

_INFO = "dataset_info.json"


class Pair(NamedTuple):
    """An image and its mask, not yet read or checked; `load` does that, in any thread."""

    image_id: str
    split: str
    read_image: Callable[[], bytes]
    read_mask: Callable[[], bytes]

    def load(self, classes: int) -> MaskedImage | Problem:
        """The image with its mask, or what is wrong with them.

        Args:
            classes: number of foreground classes.
        """
        try:
            image = self.read_image()
            mask = decode_mask(self.read_mask())
            size = upright_size(image)
        except (BadImage, FileNotFoundError) as error:
            if isinstance(error, BadImage):
                return Problem(self.image_id, "mask", error.reason, error.detail, error.remedy)
            return Problem(self.image_id, "image", "missing", f"{error}.", "Copy it there again.")
        if mask.shape != size:
            detail = f"The mask has {mask.shape[1]}x{mask.shape[0]} pixels, the upright image "
            detail += f"{size[1]}x{size[0]}."
            return Problem(self.image_id, "mask", "mask_size", detail, "Name the images that were labeled.")
        strange = np.setdiff1d(mask, [*range(classes + 1), IGNORE])
        if strange.size:
            detail = f"The mask holds {strange[0]}, beyond the {classes} classes."
            return Problem(self.image_id, "mask", "mask_values", detail, "Name all classes by `--classes`.")
        return MaskedImage(self.image_id, self.split, image, mask)


@dataclass(frozen=True)
class MaskedImages:
    """Images with their masks, split by split, read one after the other.

    Attributes:
        class_names: the foreground classes.
        count: number of pairs, about.
        pairs: makes an iterator over the `Pair`s, and `Problem`s of masks without an image.
        inputs: paths that are read.
    """

    class_names: tuple[str, ...]
    count: int
    pairs: Callable[[], Iterator[Pair | Problem]]
    inputs: tuple[str, ...]


def open_masked_images(
    labels: str, *, images: str = "", data: str = "", split: str = "", classes: str = ""
) -> MaskedImages:
    """Finds the masks, and the images that they belong to.

    Args:
        labels: output of `pseudo_labels` or `predict`, a collection with masks, or a folder of ID.png.
        images: folder of images that were labeled, local or remote; their ids are their paths in it.
        data: collection whose images were labeled. Without either it is what `options.json` names.
        split: of a collection, the one to take, default all; of label maps, that of the images.
        classes: path of a file of class names; default: as `labels` says.

    Raises:
        UserError: there are no masks, or no images that belong to them, or the classes are not known.
    """
    if images and data:
        raise UserError("Give one of `--images` and `--data`: where the photographs are.")
    if io.exists(io.join(labels, _INFO)):
        if images or data:
            raise UserError(f"{labels} is a collection with its photographs: leave out --images and --data.")
        return _of_collection(labels, split, classes)
    if not io.is_remote(labels) and not io.exists(labels):
        raise UserError(f"There is no folder {labels}.")
    path = io.join(labels, "options.json")
    settings = LabelSettings.from_json(io.read_object(path), path) if io.exists(path) else None
    recorded = settings.options if settings else {}
    names = read_class_names(classes) if classes else settings.class_names if settings else ()
    if not names:
        raise UserError(f"{labels} does not say which classes there are: pass `--classes`, a file of them.")
    masks = files_by_id(io.join(labels, MASKS) if settings else labels, ".png")
    if not masks:
        raise UserError(f"{labels} holds no masks: neither ID.png nor the output of `pseudo_labels`.")
    images, data = _find_images(labels, images, data, str(recorded.get("data") or ""))
    if images:
        named = split or recorded.get("split")
        return _of_folder(labels, names, masks, images, "train" if named in (None, "all") else str(named))
    return _of_collection_and_folder(
        labels, names, masks, data, split or str(recorded.get("split") or "train")
    )


def _find_images(labels, images, data, recorded):
    """`(images, data)`, of which one is given: what the user names, or what was labeled."""
    if images or data:
        return images, data
    if not recorded:
        raise UserError(f"{labels} holds masks alone: say where the photographs are by --images or --data.")
    if not io.exists(io.join(recorded, _INFO)):
        if io.is_remote(recorded) or io.exists(recorded):
            return recorded, ""
        try:
            open_collection(recorded)  # by the name of a data set of TFDS
        except UserError:
            raise UserError(
                f"{labels} was made of `{recorded}`, which is not found from here. Say where it is by "
                "`--data`, or where the photographs are by `--images`."
            ) from None
    return "", recorded


def _of_collection(path, split, classes):
    collection = open_collection(path)
    if not collection.has_masks:
        raise UserError(f"{path} has no masks. Name pseudo labels, or a collection with masks.")
    check_masks(collection)
    splits = [split] if split not in ("", "all") else list(collection.split_sizes)
    count = sum(len(collection.shard_paths(each)) and collection.split_sizes[each] for each in splits)
    names = read_class_names(classes) if classes else collection.class_names

    def pairs():
        for each in splits:
            for record in collection.read(each):
                yield Pair(record.image_id, each, _held(record.image_bytes), _held(record.mask_bytes))

    return MaskedImages(names, count, pairs, (collection.directory,))


def _of_folder(labels, names, masks, images, split):
    """Masks of a folder of images."""
    paths = {path: full for path, full in list_folder(images, [labels]).paths.items() if is_image(path)}
    by_id = {_key(image_id): paths[path] for path, image_id in image_ids(paths).items()}
    if not masks.keys() & by_id.keys():
        raise UserError(
            f"No mask of {labels} belongs to an image in {images}: there is {min(masks)}, but not "
            f"{min(by_id, default='an image')}."
        )

    def pairs():
        for image_id in sorted(masks):
            if image_id in by_id:
                yield Pair(image_id, split, _reader(by_id[image_id]), _reader(masks[image_id]))
            else:
                yield _without_image(image_id, images)

    return MaskedImages(names, len(masks), pairs, (labels, images))


def _of_collection_and_folder(labels, names, masks, data, split):
    """Masks of the images of a collection."""
    collection = open_collection(data)
    if collection.class_names and collection.class_names != names:
        raise UserError(f"The labels in {labels} are of other classes than the images of {data}.")
    splits = list(collection.split_sizes) if split == "all" else [split]
    for each in splits:
        collection.shard_paths(each)  # refuses a split that is not there

    def pairs():
        return _joined(collection, splits, masks, data)

    return MaskedImages(names, len(masks), pairs, (labels, collection.directory))


def _joined(collection: Collection, splits: list[str], masks: Mapping[str, str], data: str):
    left = set(masks)
    for split in splits:
        for record in collection.read(split):
            key = _key(record.image_id)
            if key in left:
                left.discard(key)
                yield Pair(record.image_id, split, _held(record.image_bytes), _reader(masks[key]))
    for image_id in sorted(left):
        yield _without_image(image_id, data)


def _without_image(image_id, place):
    remedy = "Name the images that were labeled by --images or --data."
    return Problem(image_id, "image", "missing", f"It has a mask, but no image in {place}.", remedy)


def _held(data):
    return lambda: data


def _reader(path):
    return lambda: io.read_bytes(path)


def _key(image_id):
    """The id as it can be read off a file's name: long ones are cut there."""
    return image_id_of(file_name(image_id))
