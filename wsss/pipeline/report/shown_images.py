"""Which images the report shows: some spaced evenly, the worst and the best of all and of each class."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from wsss.pipeline.stages.describe import ImageRow
from wsss.pipeline.stages.pictures import SPACED

MOST_SPACED, MOST_RATED = 24, 12
MOST_OF_CLASS, MANY_CLASSES = 2, 24  # the worst and the best of a class; one of each where classes are many
OF_CLASS = "of_class"
# Groups of pictures by name, in the order of the report.
GROUPS = {
    SPACED: "spaced evenly over the collection",
    "worst_quality": "lowest quality, without truth",
    "best_quality": "highest quality, without truth",
    "worst_iou": "lowest IoU with the truth",
    "best_iou": "highest IoU with the truth",
    OF_CLASS: "lowest and highest of each class",
}


@dataclass(order=True, frozen=True)
class _Entry:
    value: float
    image_id: str
    shard: str = field(compare=False)
    quality: float | None = field(compare=False)


@dataclass
class ShownImages:
    """Picks images of which a picture is at hand, one row after the other.

    Attributes:
        groups: by name, but for that of all classes, the images in the order in which they are shown.
        classes: by 0-based class id, the images with the lowest and those with the highest IoU, or quality
            where there is no truth; they make up the group of all classes.
    """

    groups: dict[str, list[_Entry]] = field(
        default_factory=lambda: {name: [] for name in GROUPS if name != OF_CLASS}
    )
    classes: dict[int, tuple[list[_Entry], list[_Entry]]] = field(default_factory=dict)

    def add(self, row: ImageRow, quality: float | None, shard: str) -> None:
        """Takes an image in where it belongs to a group.

        Args:
            row: of the image.
            quality: its score.
            shard: the shard whose manifest holds the picture.
        """
        if row.picture is None:
            return
        spaced = self.groups[SPACED]
        if row.picture == SPACED and len(spaced) < MOST_SPACED:
            spaced.append(_Entry(0.0, row.image_id, shard, quality))
        for name, value in (("quality", quality), ("iou", row.iou)):
            if value is not None:
                entry = _Entry(value, row.image_id, shard, quality)
                for group, pick in ((f"worst_{name}", heapq.nsmallest), (f"best_{name}", heapq.nlargest)):
                    self.groups[group] = pick(MOST_RATED, [*self.groups[group], entry])
        value = quality if row.iou is None else row.iou
        if value is not None:
            entry = _Entry(value, row.image_id, shard, quality)
            for class_id in row.tags or row.predicted:
                worst, best = self.classes.get(class_id, ([], []))
                self.classes[class_id] = (
                    heapq.nsmallest(MOST_OF_CLASS, [*worst, entry]),
                    heapq.nlargest(MOST_OF_CLASS, [*best, entry]),
                )

    def to_json(self) -> list[dict[str, Any]]:
        """The images with their groups and places in them, for `summary.json`."""
        images: dict[str, dict[str, Any]] = {}
        for group, place, entry in self._places():
            value: dict[str, Any] = {
                "id": entry.image_id,
                "shard": entry.shard,
                "quality": entry.quality,
                "groups": {},
            }
            images.setdefault(entry.image_id, value)["groups"].setdefault(group, place)
        return list(images.values())

    def _places(self) -> Iterator[tuple[str, int, _Entry]]:
        for group, entries in {**self.groups, OF_CLASS: self._of_classes()}.items():
            for place, entry in enumerate(entries):
                yield group, place, entry

    def _of_classes(self) -> list[_Entry]:
        most = MOST_OF_CLASS if len(self.classes) <= MANY_CLASSES else 1
        return [entry for _, ends in sorted(self.classes.items()) for end in ends for entry in end[:most]]
