"""FiftyOne's `ImageSegmentationDirectory`, one a split: `SPLIT/data`, `SPLIT/labels`, `mask_targets.json`."""

from wsss.common import io
from wsss.data.targets.base import MaskedImage, Target

MASK_TARGETS = "mask_targets.json"


class FiftyOneTarget(Target):
    """Folders of images and of masks, as FiftyOne's importer takes them; 255 stays a value."""

    owned = (MASK_TARGETS, "*/data/**/*", "*/labels/**/*.png")

    def encode(self, image: MaskedImage) -> None:
        """Writes the image and its mask, in grayscale: FiftyOne reads a palette's colors, not its numbers."""
        self.write_image(image, image.split, "data")
        self.write_mask(image, image.split, "labels", colored=False)

    def finish(self) -> None:
        """Writes the class of each number: `default_mask_targets` of a data set, keys as text."""
        names = {str(number): name for number, name in enumerate(self.class_names, start=1)}
        io.write_json(io.join(self.folder, MASK_TARGETS), {"0": "background", **names})
