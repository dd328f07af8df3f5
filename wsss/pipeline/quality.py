"""A quality score for each mask without any truth, from evidence that is known once all masks are there.

The score is the geometric mean of what is known of these, each in [0, 1]. None is fitted, and all weigh the
same; benchmarks/quality.py shows how well the score ranks images by their true IoU.

- agreement: correlation of the CAMs of the views (mirror, scales) of the image;
- contrast: mean class score of the foreground, less that of the background;
- classifier: its mean score of the image's classes, low where a tag is wrong;
- components: one over the number of regions;
- against its class: how near the area of each class is to its mean over the collection, the smaller over
  the larger;
- unchanged: fraction of the pixels that the refinement left as they were.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from wsss.pipeline.stages.describe import ImageRow


@dataclass
class ClassAreas:
    """Mean fraction of an image that each class covers, over the images that have the class.

    Args:
        predicted: whether the classes of an image are those that the classifier predicts.
    """

    predicted: bool = False
    _sums: dict[int, tuple[int, float]] = field(default_factory=dict)

    def classes_of(self, row: ImageRow) -> tuple[int, ...]:
        """The classes that an image is taken to hold, 0-based."""
        return row.predicted if self.predicted else row.tags

    def add(self, row: ImageRow) -> None:
        """Counts one image."""
        fractions = dict(row.fractions)
        for class_id in self.classes_of(row) if fractions else ():
            count, total = self._sums.get(class_id, (0, 0.0))
            self._sums[class_id] = count + 1, total + fractions.get(class_id + 1, 0.0)

    def means(self) -> dict[int, float]:
        """Mean fraction by class."""
        return {class_id: total / count for class_id, (count, total) in self._sums.items()}


def quality_parts(row: ImageRow, classes: Iterable[int], areas: Mapping[int, float]) -> dict[str, float]:
    """The evidence about one mask by name, each in [0, 1]; what is not known is left out.

    Args:
        row: of the image.
        classes: that the image is taken to hold, 0-based.
        areas: mean fraction of an image that each class covers.
    """
    fractions = dict(row.fractions)
    pairs = [sorted((fractions.get(each + 1, 0.0), areas.get(each, 0.0))) for each in classes]
    parts = {
        "agreement": row.agreement,
        "contrast": row.contrast,
        "classifier": row.class_score,
        "components": 1 / row.components if row.components else None,
        "against its class": float(np.mean([low / high if high else 0.0 for low, high in pairs] or [0.0])),
        "unchanged": None if row.changed is None else 1 - row.changed,
    }
    return {name: min(1.0, max(0.0, value)) for name, value in parts.items() if value is not None}


def quality(row: ImageRow, classes: tuple[int, ...], areas: Mapping[int, float]) -> float | None:
    """Quality score of one mask in [0, 1], see above; 0 of an empty one, None without mask or expected class.

    Args:
        row: of the image.
        classes: that the image is taken to hold, 0-based.
        areas: mean fraction of an image that each class covers.
    """
    if "empty" in row.flags:
        return 0.0
    if not row.fractions or not classes:
        return None
    return _geometric_mean(quality_parts(row, classes, areas))


def own_quality(row: ImageRow) -> float | None:
    """Quality score of one mask from the evidence in its own image alone; as above."""
    if "empty" in row.flags:
        return 0.0
    if not row.fractions or row.class_score is None:
        return None
    parts = quality_parts(row, (), {})
    del parts["against its class"]
    return _geometric_mean(parts)


def _geometric_mean(parts: Mapping[str, float]) -> float:
    return round(float(np.prod([*parts.values()]) ** (1 / len(parts))), 4)
