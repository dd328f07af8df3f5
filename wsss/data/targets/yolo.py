"""YOLO's segmentation layout: `images/SPLIT`, `labels/SPLIT/ID.txt` of polygons, `data.yaml`."""

import json

import numpy as np

from wsss.common import io
from wsss.common.constants import IGNORE
from wsss.data.targets.base import MaskedImage, Target
from wsss.data.targets.polygons import outline
from wsss.data.targets.run_lengths import regions_of


class YoloTarget(Target):
    """A polygon a connected component; YOLO has no unknown pixels, so that 255 becomes background."""

    owned = ("class_names.txt", "data.yaml", "images/**/*", "labels/**/*.txt")

    def __init__(self, folder: str, class_names: tuple[str, ...], copy_images: bool = True):
        super().__init__(folder, class_names, copy_images)
        self._splits: dict[str, None] = {}

    def encode(self, image: MaskedImage) -> str:
        """Writes the image and its polygons; its split."""
        self.write_image(image, "images", image.split)
        height, width = image.mask.shape
        lines = []
        for region in regions_of(image.mask, components=True):
            if region.number != IGNORE:
                corners = (outline(region.inside) + np.array([region.left, region.top])) / [width, height]
                numbers = " ".join(f"{value:.7g}" for value in corners.ravel().tolist())
                lines.append(f"{region.number - 1} {numbers}\n")
        io.write_text(io.join(self.folder, "labels", image.split, f"{image.name}.txt"), "".join(lines))
        return image.split

    def add(self, encoded: str) -> None:
        """Notes a split."""
        self._splits[encoded] = None

    def finish(self) -> None:
        """Writes `data.yaml` and the class names."""
        lines = [f"{split}: images/{split}\n" for split in self._splits]
        if "val" not in self._splits:  # which YOLO's trainer wants
            lines.append(f"val: images/{next(iter(self._splits), 'train')}\n")
        lines.append("names:\n")
        lines += [
            f"  {number}: {json.dumps(name, ensure_ascii=False)}\n"
            for number, name in enumerate(self.class_names)
        ]
        io.write_text(io.join(self.folder, "data.yaml"), "".join(lines))
        self.write_class_names()
