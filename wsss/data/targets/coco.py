"""COCO's layout: `annotations/instances_SPLIT.json` with run lengths, and `images/SPLIT/`."""

import contextlib
import shutil
import tempfile
from typing import Any

from wsss.common import io
from wsss.common.constants import IGNORE
from wsss.data.targets.base import MaskedImage, Target, compact_json
from wsss.data.targets.run_lengths import encode_run_lengths, regions_of

IGNORE_CATEGORY = {"id": IGNORE, "name": "ignore", "supercategory": "void"}
"""The category of pixels of no class, 255 in a mask; listed only where there are such."""


class CocoTarget(Target):
    """COCO's instances files, one a split; category `k` is number `k` of the masks.

    Args:
        folder, class_names, copy_images: see `Target`.
        components: whether each connected component is an annotation by itself; by default each class of an
            image is one.
    """

    owned = ("annotations/instances_*.json", "images/**/*")

    def __init__(
        self,
        folder: str,
        class_names: tuple[str, ...],
        copy_images: bool = True,
        *,
        components: bool = False,
    ):
        super().__init__(folder, class_names, copy_images)
        self._components = components
        self._stack = contextlib.ExitStack()
        self._file: _InstancesFile | None = None

    def encode(self, image: MaskedImage) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
        """Writes the image file; its split, its entry, and its annotations without ids."""
        height, width = image.mask.shape
        annotations = [
            {
                "category_id": region.number,
                "iscrowd": 0,
                "area": region.area,
                "bbox": region.box,
                "segmentation": encode_run_lengths(region, height, width),
            }
            for region in regions_of(image.mask, self._components)
        ]
        self.write_image(image, "images", image.split)
        return (
            image.split,
            {"file_name": image.image_name, "height": height, "width": width},
            annotations,
        )

    def add(self, encoded: tuple[str, dict[str, Any], list[dict[str, Any]]]) -> None:
        """Appends an image and its annotations to the file of its split."""
        split, entry, annotations = encoded
        if self._file is None or self._file.split != split:
            self.finish()
            self._file = self._stack.enter_context(_InstancesFile(self.folder, split, self.class_names))
        self._file.add(entry, annotations)

    def finish(self) -> None:
        """Completes the file of the last split."""
        self._stack.close()
        self._file = None

    def __exit__(self, kind, error, traceback) -> None:
        """Completes the last file, or drops it where there was an error."""
        self._stack.__exit__(kind, error, traceback)


class _InstancesFile:
    """One `instances_SPLIT.json`, written as the images come: the annotations wait in a temporary file."""

    def __init__(self, folder, split, class_names):
        self.split, self._class_names = split, class_names
        self._path = io.join(folder, "annotations", f"instances_{split}.json")
        self._images = self._annotations = 0
        self._has_ignored = False

    def __enter__(self):
        self._stack = contextlib.ExitStack()
        self._stream = self._stack.enter_context(io.open_write(self._path))
        self._waiting = self._stack.enter_context(tempfile.TemporaryFile())
        self._stream.write(b'{"images":[')
        return self

    def add(self, entry, annotations):
        self._stream.write(
            (b",\n" if self._images else b"\n") + compact_json({"id": self._images + 1, **entry})
        )
        self._images += 1
        for annotation in annotations:
            self._annotations += 1
            numbered = {"id": self._annotations, "image_id": self._images, **annotation}
            self._waiting.write((b",\n" if self._annotations > 1 else b"\n") + compact_json(numbered))
            self._has_ignored |= annotation["category_id"] == IGNORE

    def __exit__(self, kind, error, traceback):
        if error is None:
            self._waiting.seek(0)
            self._stream.write(b'\n],\n"annotations":[')
            shutil.copyfileobj(self._waiting, self._stream, 1 << 20)
            categories: list[dict[str, Any]] = [
                {"id": number, "name": name} for number, name in enumerate(self._class_names, start=1)
            ]
            categories += [IGNORE_CATEGORY] * self._has_ignored
            self._stream.write(b'\n],\n"categories":' + compact_json(categories) + b"}\n")
        self._stack.__exit__(kind, error, traceback)
