"""PASCAL VOC's layout: `JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation`, `class_names.txt`."""

from wsss.common import io
from wsss.data.targets.base import Lines, MaskedImage, Target


class VocTarget(Target):
    """A VOC devkit with palette masks; `class_names.txt` says which number is which class."""

    owned = (
        "class_names.txt",
        "ImageSets/Segmentation/*.txt",
        "JPEGImages/**/*",
        "SegmentationClass/**/*.png",
    )

    def __init__(self, folder: str, class_names: tuple[str, ...], copy_images: bool = True):
        super().__init__(folder, class_names, copy_images)
        self._lists = Lines(io.join(folder, "ImageSets", "Segmentation"))

    def encode(self, image: MaskedImage) -> tuple[str, str]:
        """Writes the image and its mask; its split and name."""
        self.write_image(image, "JPEGImages")
        self.write_mask(image, "SegmentationClass")
        return image.split, image.name

    def add(self, encoded: tuple[str, str]) -> None:
        """Lists the image in its split."""
        self._lists.add(*encoded)

    def finish(self) -> None:
        """Writes the last list, and the class names."""
        self._lists.finish()
        self.write_class_names()
