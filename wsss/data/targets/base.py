"""The base of all formats: an image with its mask, the files of both, and how a format is written."""

import json
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from wsss.common import io
from wsss.common.file_names import file_name
from wsss.data.images import encode_mask, image_suffix, voc_palette
from wsss.data.sources.label_table import parse_class_names


class MaskedImage(NamedTuple):
    """An image with its mask.

    Attributes:
        image_id: unique in its split.
        split: `train`, `val`, ….
        image_bytes: of the image file, as they are.
        mask: uint8 (height, width) of the upright image: 0 background, 1..K class, 255 ignore.
    """

    image_id: str
    split: str
    image_bytes: bytes
    mask: np.ndarray

    @property
    def name(self) -> str:
        """Of its files, relative and without suffix."""
        return file_name(self.image_id)

    @property
    def image_name(self) -> str:
        """Of the image file, with the suffix of what it is."""
        return self.name + image_suffix(self.image_bytes)


class Target:
    """A format on disk, written image by image; use it as a context manager.

    Nothing is held for all images: what is one file for all of them is written as the images come.

    Args:
        folder: to write to, local or remote.
        class_names: the foreground classes.
        copy_images: whether the image files are written too.
    """

    owned: ClassVar[tuple[str, ...]] = ()
    """Patterns of the files of the format, relative to the folder."""

    def __init__(self, folder: str, class_names: tuple[str, ...], copy_images: bool = True):
        self.folder, self.class_names, self.copy_images = folder, class_names, copy_images

    def __enter__(self) -> "Target":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()

    def encode(self, image: MaskedImage) -> Any:
        """Writes the files of one image and computes what `add` takes; several threads call it at once."""
        raise NotImplementedError

    def add(self, encoded: Any) -> None:
        """Takes what `encode` gave, in the order of the images."""

    def finish(self) -> None:
        """Writes what says that the format is complete."""

    def write_image(self, image: MaskedImage, *folders: str) -> None:
        """Writes the image file, its bytes as they are, if images are copied."""
        if self.copy_images:
            io.write_bytes(io.join(self.folder, *folders, image.image_name), image.image_bytes)

    def write_mask(self, image: MaskedImage, *folders: str, colored: bool = True) -> None:
        """Writes the mask as palette PNG in PASCAL VOC's colors, or as grayscale PNG of the same numbers."""
        path = io.join(self.folder, *folders, f"{image.name}.png")
        io.write_bytes(path, encode_mask(image.mask, voc_palette() if colored else None))

    def write_class_names(self) -> None:
        """Writes `class_names.txt`, a foreground class a line, numbered where a name could be misread."""
        text = "".join(f"{name}\n" for name in self.class_names)
        if parse_class_names(text) != self.class_names:
            text = "".join(f"{number} {name}\n" for number, name in enumerate(self.class_names, start=1))
        io.write_text(io.join(self.folder, "class_names.txt"), text)


class Lines:
    """Text files of a line an image, one file at a time in memory: the images come split by split.

    Args:
        folder: of the files, local or remote.
    """

    def __init__(self, folder: str):
        self._folder, self._split, self._lines = folder, "", list[str]()

    def add(self, split: str, line: str) -> None:
        """Appends a line to the file of a split."""
        if split != self._split:
            self.finish()
            self._split = split
        self._lines.append(line + "\n")

    def finish(self) -> None:
        """Writes the file of the last split."""
        if self._lines:
            io.write_text(io.join(self._folder, f"{self._split}.txt"), "".join(self._lines))
            self._lines = []


def compact_json(value: Any) -> bytes:
    """JSON on one line, equal values to equal bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
