"""CVAT's "Segmentation mask 1.1": PASCAL VOC's folders, and the color of each class in `labelmap.txt`."""

from wsss.common import io
from wsss.common.constants import IGNORE
from wsss.common.errors import UserError
from wsss.data.images import voc_palette
from wsss.data.targets.voc import VocTarget

IGNORED = "ignored"  # PASCAL VOC's name of 255 in CVAT's and Datumaro's label maps


class CvatTarget(VocTarget):
    """A VOC devkit whose `labelmap.txt` names the color of each class, of the background and of 255."""

    owned = ("labelmap.txt", *VocTarget.owned[1:])

    def __init__(self, folder: str, class_names: tuple[str, ...], copy_images: bool = True):
        super().__init__(folder, class_names, copy_images)
        strange = [name for name in class_names if ":" in name or name.startswith("#")]
        if strange:
            raise UserError(f"A class of CVAT's labelmap.txt cannot be called `{strange[0]}`: rename it.")

    def write_class_names(self) -> None:
        """Writes `labelmap.txt`, a line `name:r,g,b:parts:actions` a label."""
        colors = voc_palette().tolist()
        ignored = IGNORED if IGNORED not in self.class_names else f"{IGNORED}_255"
        labels = {0: "background", **dict(enumerate(self.class_names, start=1)), IGNORE: ignored}
        lines = [f"{name}:{','.join(map(str, colors[number]))}::\n" for number, name in labels.items()]
        text = "".join(["# label:color_rgb:parts:actions\n", *lines])
        io.write_text(io.join(self.folder, "labelmap.txt"), text)
