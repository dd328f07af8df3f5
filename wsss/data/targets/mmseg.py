"""MMSegmentation's layout: `img_dir/SPLIT`, `ann_dir/SPLIT`, and its `metainfo` as JSON."""

from wsss.common import io
from wsss.data.images import voc_palette
from wsss.data.targets.base import MaskedImage, Target

METAINFO = "metainfo.json"


class MmsegTarget(Target):
    """Folders for MMSegmentation's `BaseSegDataset` with `reduce_zero_label=False`; 255 is ignored there."""

    owned = (METAINFO, "img_dir/**/*", "ann_dir/**/*.png")

    def encode(self, image: MaskedImage) -> None:
        """Writes the image and its mask."""
        self.write_image(image, "img_dir", image.split)
        self.write_mask(image, "ann_dir", image.split)

    def finish(self) -> None:
        """Writes the classes and their colors, the background first: `BaseSegDataset(metainfo=…)`."""
        classes = ["background", *self.class_names]
        palette = voc_palette()[: len(classes)].tolist()
        io.write_json(io.join(self.folder, METAINFO), {"classes": classes, "palette": palette})
