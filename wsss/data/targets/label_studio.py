"""Label Studio's tasks with brush predictions: `tasks.json`, `label_config.xml` and `images/`."""

import contextlib
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from wsss.common import io
from wsss.common.constants import IGNORE
from wsss.data.images import voc_palette
from wsss.data.targets.base import MaskedImage, Target, compact_json
from wsss.data.targets.brush import encode_brush

IGNORED = "ignore (255)"
"""The brush of pixels of no class, 255 in a mask."""

LOCAL_FILES = "/data/local-files/?d=images/"
"""Where Label Studio serves local files, the export being `LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT`."""


class LabelStudioTarget(Target):
    """Tasks to import into a project with the labeling interface of `label_config.xml`.

    Args:
        folder, class_names, copy_images: see `Target`.
        image_url: what the address of an image begins with; its file name follows.
    """

    owned = ("class_names.txt", "label_config.xml", "tasks.json", "images/**/*")

    def __init__(
        self,
        folder: str,
        class_names: tuple[str, ...],
        copy_images: bool = True,
        *,
        image_url: str = LOCAL_FILES,
    ):
        super().__init__(folder, class_names, copy_images)
        self._image_url, self._tasks = image_url, 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "LabelStudioTarget":
        self._stream = self._stack.enter_context(io.open_write(io.join(self.folder, "tasks.json")))
        self._stream.write(b"[")
        return self

    def encode(self, image: MaskedImage) -> dict[str, Any]:
        """Writes the image file; the task."""
        self.write_image(image, "images", image.split)
        address = self._image_url + quote(f"{image.split}/{image.image_name}")
        numbers = [number for number in np.unique(image.mask).tolist() if number]
        prediction = {
            "model_version": "wsss",
            "result": [self._brush(image.mask, number) for number in numbers],
        }
        data = {"image": address, "image_id": image.image_id, "split": image.split}
        return {"data": data, "predictions": [prediction]}

    def _brush(self, mask, number):
        name = IGNORED if number == IGNORE else self.class_names[number - 1]
        height, width = mask.shape
        return {
            "id": f"class{number}",
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "image_rotation": 0,
            "original_width": width,
            "original_height": height,
            "value": {"format": "rle", "rle": encode_brush(mask == number), "brushlabels": [name]},
        }

    def add(self, encoded: dict[str, Any]) -> None:
        """Appends a task."""
        self._stream.write((b",\n" if self._tasks else b"\n") + compact_json(encoded))
        self._tasks += 1

    def finish(self) -> None:
        """Writes the labeling interface and the class names."""
        labels = [*enumerate(self.class_names, start=1), (IGNORE, IGNORED)]
        lines = "".join(
            f"    <Label value={quoteattr(name)} background={quoteattr(_css(number))}/>\n"
            for number, name in labels
        )
        text = (
            '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
            f'  <BrushLabels name="label" toName="image">\n{lines}  </BrushLabels>\n</View>\n'
        )
        io.write_text(io.join(self.folder, "label_config.xml"), text)
        self.write_class_names()

    def __exit__(self, kind, error, traceback) -> None:
        """Completes the tasks, or drops them where there was an error."""
        if error is None:
            self._stream.write(b"\n]\n")
        self._stack.__exit__(kind, error, traceback)
        super().__exit__(kind, error, traceback)


def _css(number):
    return "#{:02x}{:02x}{:02x}".format(*voc_palette()[number].tolist())
