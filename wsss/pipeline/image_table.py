"""`images.csv`: a row an image, written shard by shard from the manifests of a finished job."""

import csv
import heapq
import io as text_io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from wsss.common import io
from wsss.common.constants import IGNORE
from wsss.pipeline.output import Layout
from wsss.pipeline.quality import ClassAreas, quality
from wsss.pipeline.report.shown_images import ShownImages
from wsss.pipeline.stages.describe import ImageRow
from wsss.pipeline.stages.manifest import stream_rows

FILE = "images.csv"
LISTED = 20  # most ids of one kind that are named in `summary.json` and in the report
_COLUMNS = (
    "id",
    "tags",
    "tag_scores",
    "predicted_tags",
    "predicted_scores",
    "threshold",
    "foreground_fraction",
    "components",
    "changed",
    "entropy_before",
    "entropy",
    "quality",
    "iou",
    "flags",
)


@dataclass
class TableStatistics:
    """What `images.csv` says about a collection as a whole.

    Attributes:
        flags: number of images by the name of a flag.
        empty: ids of the first images that were left empty, `LISTED` at most.
        refined: number of images that have a class and were refined.
        changed: sum over those of the fraction of pixels that got another label.
        entropy: sums over those of the entropy of the labels in bits, before and after.
        rated: number of images with a quality score.
        quality: sum of those scores.
        worst: pairs of score and id of the images with the lowest scores, ascending, `LISTED` at most.
        tagged, found, predicted: number of images by 0-based class: tagged with it; of these, those in which
            the classifier predicts it; all in which it predicts it.
        shown: the images whose pictures the report shows.
    """

    flags: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)
    refined: int = 0
    changed: float = 0.0
    entropy: tuple[float, float] = (0.0, 0.0)
    rated: int = 0
    quality: float = 0.0
    worst: list[tuple[float, str]] = field(default_factory=list)
    tagged: Counter[int] = field(default_factory=Counter)
    found: Counter[int] = field(default_factory=Counter)
    predicted: Counter[int] = field(default_factory=Counter)
    shown: ShownImages = field(default_factory=ShownImages)

    def add(self, row: ImageRow, score: float | None = None, shard: str = "") -> None:
        """Counts one image of a shard and its quality score."""
        self.shown.add(row, score, shard)
        self.tagged.update(row.tags)
        self.found.update(set(row.tags) & set(row.predicted))
        self.predicted.update(row.predicted)
        self.flags.update(row.flags)
        if "empty" in row.flags and len(self.empty) < LISTED:
            self.empty.append(row.image_id)
        if row.changed is not None and "no_class" not in row.flags:
            before, after = row.entropy
            self.refined += 1
            self.changed += row.changed
            self.entropy = (self.entropy[0] + before, self.entropy[1] + after)
        if score is not None:
            self.rated += 1
            self.quality += score
            self.worst = heapq.nsmallest(LISTED, [*self.worst, (score, row.image_id)])

    def quality_scores(self) -> dict[str, Any]:
        """Mean of the quality scores and the images with the lowest, for `summary.json`."""
        mean = round(self.quality / self.rated, 4) if self.rated else None
        return {
            "mean": mean,
            "lowest": [{"id": image_id, "quality": score} for score, image_id in self.worst],
        }

    def tags(self, class_names: Sequence[str]) -> dict[str, dict[str, int]]:
        """What the classifier makes of each class's tags, for `summary.json`."""
        return {
            name: {
                "tagged": self.tagged[class_id],
                "found": self.found[class_id],
                "predicted": self.predicted[class_id],
            }
            for class_id, name in enumerate(class_names)
        }

    def refinement(self) -> dict[str, Any] | None:
        """What the refinement did to the masks, for `summary.json`; None without one."""
        if not self.refined:
            return None
        return {
            "images": self.refined,
            "mean_changed": round(self.changed / self.refined, 6),
            "mean_entropy_before": round(self.entropy[0] / self.refined, 6),
            "mean_entropy": round(self.entropy[1] / self.refined, 6),
            "collapsed": self.flags["collapsed"],
            "class_lost": self.flags["class_lost"],
        }


def write_table(
    layout: Layout, shards: Sequence[str], class_names: Sequence[str], predicted: bool = False
) -> TableStatistics:
    """Writes `images.csv`; a few shards at a time are in memory.

    The manifests are read twice: the quality of a mask also depends on how large its classes are elsewhere.

    Args:
        layout: the output's `Layout`.
        shards: names of all shards, which are finished, in order.
        class_names: the foreground classes.
        predicted: whether the classes of an image are those that the classifier predicts.

    Returns:
        `TableStatistics`.

    Raises:
        UserError: a manifest is damaged.
    """
    statistics, areas = TableStatistics(), ClassAreas(predicted)
    for _, row in stream_rows(layout, shards):
        areas.add(row)
    means = areas.means()
    with io.open_write(layout.path(FILE)) as stream:
        text = text_io.TextIOWrapper(
            stream, "utf-8", errors="surrogateescape", newline="", write_through=True
        )
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow([*_COLUMNS, *(f"fraction_{name}" for name in ("background", *class_names))])
        for shard, row in stream_rows(layout, shards):
            score = quality(row, areas.classes_of(row), means)
            statistics.add(row, score, shard)
            rows.writerow(_cells(row, score, class_names))
        text.detach()
    return statistics


def _cells(row: ImageRow, score: float | None, class_names: Sequence[str]) -> Iterator[object]:
    yield row.image_id
    for classes, scores in ((row.tags, row.tag_scores), (row.predicted, row.predicted_scores)):
        yield _join([class_names[index] for index in classes])
        yield ";".join(f"{score:g}" for score in scores)
    has_mask = bool(row.fractions)
    yield row.threshold
    yield row.foreground if has_mask else None
    yield row.components
    yield row.changed
    yield from row.entropy or (None, None)
    yield score
    yield row.iou
    yield ";".join(row.flags)
    fractions = dict(row.fractions)
    fractions.pop(IGNORE, None)
    yield from (fractions.get(value, 0) if has_mask else None for value in range(len(class_names) + 1))


def _join(names: list[str]) -> str:
    """Names with semicolons between, or a JSON list where one holds a semicolon itself."""
    return json.dumps(names, ensure_ascii=False) if any(";" in name for name in names) else ";".join(names)
