"""Finishing a shard: its TFRecord file and its manifest, as soon as all its images are done.

The images of a shard travel from the reader to here without a shuffle between, one after the other, and the
`ShardEnd` follows them. A runner that fuses such stages, as Beam's runners do, brings them in one bundle, and
the shard is finished within that bundle: what a job has done when it fails or is stopped stays done. What a
runner brings in different bundles is gathered by a GroupByKey, and finished after all images of the job.

A shard of which images failed for what may pass by itself is handed back to a runner that repeats bundles, by
an exception, and once in a job: the second time its failures are written down.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from wsss.common import io
from wsss.pipeline.dead_letter import Failure, ShardEnd, count_failure
from wsss.pipeline.output import PLANS, Layout
from wsss.pipeline.stages.describe import ImageRow
from wsss.pipeline.stages.manifest import Manifest, write_manifest
from wsss.pipeline.stages.pictures import Candidates
from wsss.pipeline.stages.score import Tally
from wsss.pipeline.stages.write import LabeledImage, format_record, write_record_file


@dataclass(frozen=True)
class ShardPart:
    """What is known about some images of a shard.

    Attributes:
        tally: counts over them.
        rows: the `ImageRow` of each mask.
        records: of TFRecord output, `(image_id, serialized)` of each mask.
        end: the shard's `ShardEnd`, or None where that is in another part.
        candidates: those that the report may show.
    """

    tally: Tally = field(default_factory=Tally)
    rows: tuple[ImageRow, ...] = ()
    records: tuple[tuple[str, bytes], ...] = ()
    end: ShardEnd | None = None
    candidates: Candidates = field(default_factory=Candidates)

    @classmethod
    def of(
        cls, element: LabeledImage | Failure | ShardEnd, with_record: bool, pictures: int = 0
    ) -> "ShardPart":
        """The part that is one element."""
        if isinstance(element, ShardEnd):
            return cls(end=element)
        if isinstance(element, Failure):
            return cls(Tally(failures=(element,)))
        return cls(
            element.tally,
            (element.row,),
            (format_record(element),) if with_record else (),
            candidates=Candidates.of(element.scored, element.row, pictures),
        )

    def __add__(self, other: "ShardPart") -> "ShardPart":
        return ShardPart(
            self.tally + other.tally,
            self.rows + other.rows,
            self.records + other.records,
            self.end or other.end,
            self.candidates + other.candidates,
        )

    @property
    def is_complete(self) -> bool:
        """Whether these are all images of the shard."""
        return self.end is not None and self.tally.images + len(self.tally.failures) == self.end.images


class TransientFailures(RuntimeError):
    """Images failed for what may pass by itself, such as want of memory: the bundle is to be repeated."""


class FinishShards(beam.PTransform):
    """`LabeledImage`s, `Failure`s and `ShardEnd`s to the names of finished shards, whose manifests it writes.

    Of TFRecord output it writes the file of each shard before, with the pseudo label in the place of the true
    mask. Together with TFDS's metadata the files are a collection like the one that was read: a segmentation
    network trains on it as on any other.

    Args:
        layout: the `Layout`.
        file_names: dict of the shard's name to the name of its TFRecord file, or None without such files.
        pictures: how many of the worst and of the best images of a shard, by each measure, are kept as
            pictures for the report, beside those spaced evenly; 0 keeps none at all.
        scores: whether the scores of the images were written.
        repeats: whether the runner repeats a bundle that raises.
    """

    def __init__(
        self,
        layout: Layout,
        file_names: dict[str, str] | None = None,
        *,
        pictures: int = 0,
        scores: bool = False,
        repeats: bool = False,
    ):
        super().__init__()
        self._settings = layout, file_names, scores
        self._in_bundle = _FinishInBundle(*self._settings, pictures, repeats)

    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        gather = beam.ParDo(self._in_bundle)
        outputs = elements | "InBundle" >> gather.with_outputs("parts", main="finished")
        late = (
            outputs.parts
            | "GroupParts" >> beam.GroupByKey()
            | "FinishLate" >> beam.Map(_finish_parts, *self._settings)
        )
        return (outputs.finished, late) | beam.Flatten()


class _FinishInBundle(beam.DoFn):
    """Finishes the shards that a bundle holds whole; of others, `(shard, ShardPart)` under `parts`."""

    def __init__(self, layout, file_names, scores, pictures, repeats):
        self._layout, self._settings = layout, (layout, file_names, scores)
        self._with_record = file_names is not None
        self._pictures, self._repeats = pictures, repeats

    def start_bundle(self) -> None:
        self._parts: dict[str, ShardPart] = {}

    def process(self, element: Any) -> Iterator[Any]:
        shard = element.scored.input.shard if isinstance(element, LabeledImage) else element.shard
        if isinstance(element, Failure):
            count_failure(element)
        part = ShardPart.of(element, self._with_record, self._pictures)
        part = self._parts[shard] + part if shard in self._parts else part
        self._parts[shard] = part
        if part.is_complete:
            if self._repeats:
                _hand_back_once(shard, part.tally.failures, self._layout)
            yield _finish(shard, self._parts.pop(shard), *self._settings)

    def finish_bundle(self) -> Iterator[Any]:
        for part in self._parts.items():
            output = GlobalWindows.windowed_value(part)
            yield beam.pvalue.TaggedOutput("parts", output)


def _hand_back_once(shard, failures, layout):
    """Raises where failures may pass by themselves, unless it has done so for this shard before."""
    passing = sorted(failure for failure in failures if failure.may_pass)
    mark = layout.path(f"{PLANS}/{shard}.retried.json")
    if passing and not io.exists(mark):
        io.write_json(mark, [failure._asdict() for failure in passing])
        raise TransientFailures(f"{len(passing)} images of {shard} are tried again: {passing[0].reason}")


def _finish_parts(shard_and_parts, *settings):
    shard, parts = shard_and_parts
    return _finish(shard, sum(parts, ShardPart()), *settings)


def _finish(shard: str, part: ShardPart, layout: Layout, files: dict[str, str] | None, scores: bool) -> str:
    """Writes the files of a shard all of whose images are known, the manifest last."""
    assert part.end is not None  # each shard has one
    rows = sorted(part.rows, key=lambda row: row.image_id)
    records = None if files is None else write_record_file(layout, files[shard], part.records)
    image_ids = tuple(row.image_id for row in rows)
    manifest = Manifest(shard, part.end.source, part.tally, image_ids, records, scores)
    write_manifest(layout, manifest, rows, part.candidates)
    return shard
