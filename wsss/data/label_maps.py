"""Label maps in a folder, by image id: pseudo labels that a network learns from, in place of true masks."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wsss.common import fingerprint, io
from wsss.common.errors import UserError
from wsss.common.file_names import file_name, image_id_of
from wsss.data import images

_MASKS = "masks"  # of the output of `pseudo_labels`
_COMPARED = 1000  # images of a split among which one with a label map is looked for


@dataclass(frozen=True)
class LabelMaps:
    """Label maps of images, read when they are needed.

    Attributes:
        directory: folder or `gs://…`, as the user gave it.
        paths: image id -> file, PNG of one number a pixel: 0 background, 1..K class, 255 ignore.
    """

    directory: str
    paths: Mapping[str, str] = field(repr=False)

    def read(self, image_id: str) -> np.ndarray:
        """The label map of an image, uint8 (height, width).

        Raises:
            BadImage: there is none, or its file is damaged.
        """
        path = self.paths.get(_key(image_id))
        if path is None:
            raise images.BadImage("no_mask", f"It has no label map in {self.directory}.", "Label it.")
        return images.decode_mask(io.read_bytes(path))

    def fingerprint(self) -> str:
        """One fingerprint of all ids and of the content of their files."""
        ids = sorted(self.paths)
        return fingerprint.combine((*ids, *fingerprint.of_files([self.paths[each] for each in ids])))


def open_label_maps(directory: str, collection: Any, split: str) -> LabelMaps:
    """The label maps in a folder that belong to a split of a collection.

    Args:
        directory: output of `pseudo_labels`, or a folder of ID.png with sub-folders; local or `gs://…`.
        collection: `Collection` whose images are to be learned from.
        split: its split.

    Raises:
        UserError: the folder holds no label maps, those of other classes, or none of an image of the split.
    """
    if not io.is_remote(directory) and not io.exists(directory):
        raise UserError(f"There is no folder {directory}.")
    if io.exists(io.join(directory, "dataset_info.json")):
        raise UserError(
            f"{directory} is a collection with its images: pass it as `--data`, without `--masks`."
        )
    recorded = io.join(directory, "options.json")
    folder = directory
    if io.exists(recorded):
        _check_classes(io.read_object(recorded).get("class_names"), collection, directory)
        folder = io.join(directory, _MASKS)
    maps = LabelMaps(directory, files_by_id(folder, ".png"))
    if not maps.paths:
        raise UserError(f"{directory} holds no label maps: neither ID.png nor the output of `pseudo_labels`.")
    if collection.keys.image_id is None:
        raise UserError(f"The images of {collection.directory} have no ids, by which label maps are found.")
    ids = [record.image_id for record in itertools.islice(collection.read(split), _COMPARED)]
    if not any(_key(image_id) in maps.paths for image_id in ids):
        raise UserError(
            f"None of the images of {collection.directory}, split {split}, has a label map in {directory}: "
            f"there is {min(maps.paths)}, but not {ids[0] if ids else 'an image'}."
        )
    return maps


def files_by_id(folder: str, suffix: str) -> dict[str, str]:
    """Image id -> path of the files with a suffix in a folder, local or remote, sub-folders included."""
    prefix = len(str(folder).rstrip("/")) + 1
    found = io.list_files(io.join(io.escape(folder), "**"))
    return {image_id_of(path[prefix : -len(suffix)]): path for path in found if path.endswith(suffix)}


def _key(image_id):
    """The id as it can be read off a file's name: long ones are cut there."""
    return image_id_of(file_name(image_id))


def _check_classes(names, collection, directory):
    if isinstance(names, list) and tuple(names) != collection.class_names:
        here, there = (", ".join(map(str, each)) for each in (collection.class_names, names))
        raise UserError(
            f"The label maps in {directory} are of other classes ({there}) than the images ({here})."
        )
