"""Scores of a collection's images: computed by a model, or read from the files of an earlier job."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam

from wsss.common import io
from wsss.data.dataset import Collection
from wsss.pipeline.dead_letter import PASSED_ON, Failure, ShardEnd, describe_error
from wsss.pipeline.output import ImageScores, Layout
from wsss.pipeline.stages.manifest import Manifest
from wsss.pipeline.stages.predict import CamSettings, ComputeCAMs
from wsss.pipeline.stages.read import InputImage, ReadBatches
from wsss.pipeline.stages.refine import MergeScales, ScoredImage

_BEFORE_SCORES = ("read", "decode", "predict")  # stages that fail again whatever the masks are made with
STAGE = "scores"


@dataclass(frozen=True)
class StoredScores:
    """Scores that an earlier job has stored.

    Attributes:
        layout: of that job's output.
        collection: the `Collection` that is read, or None for a folder of images.
        image_labels, label_threshold: those of that job, see `PredictCAM`.
        classes: number of foreground classes.
        resource_hints: of the workers.
    """

    layout: Layout
    collection: Collection | None
    image_labels: str
    label_threshold: float
    classes: int
    resource_hints: Mapping[str, Any] = field(default_factory=dict)


class BadScores(ValueError):
    """A score file that is damaged, or of another image."""


class ScoreImages(beam.PTransform):
    """`InputShard`s to `ScoredImage`s and `Failure`s, with a `ShardEnd` after those of each shard.

    Args:
        source: how scores are computed, or where they are stored.
    """

    def __init__(self, source: CamSettings | StoredScores):
        super().__init__()
        self._source = source

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        source = self._source
        if isinstance(source, StoredScores):
            return shards | ReadBatches(source.collection, 1) | ReadScores(source)
        return shards | ComputeCAMs(source) | MergeScales()


class ReadScores(beam.PTransform):
    """Batches of `InputImage`s to `ScoredImage`s, whose scores an earlier job has stored.

    An image that failed in that job fails as it did there. One whose score file is missing or damaged fails
    for a passing reason: the job that stored it can store it again.

    Args:
        source: `StoredScores`.
    """

    def __init__(self, source: StoredScores):
        super().__init__()
        self._source = source

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return batches | beam.ParDo(_ReadScores(self._source))


class _ReadScores(beam.DoFn):
    def __init__(self, source):
        self._source = source
        self._failures: tuple[str, dict[str, Failure]] = ("", {})  # of one shard, the latest

    def process(self, batch: tuple[InputImage | Failure | ShardEnd, ...]) -> Iterator[Any]:
        for element in batch:
            yield element if isinstance(element, PASSED_ON) else self._score(element)

    def _score(self, image):
        path = self._source.layout.scores(image.record.image_id)
        try:
            by_model = ImageScores.decode(io.read_bytes(path))
            _check(by_model, image.record, self._source)
        except FileNotFoundError:
            return self._why_missing(image, path)
        except ValueError as error:
            return _failure(image, BadScores(f"{path} cannot be used: {error}"))
        return ScoredImage.of(image, by_model)

    def _why_missing(self, image, path):
        if self._failures[0] != image.shard:
            self._failures = image.shard, _read_failures(self._source.layout, image.shard)
        known = self._failures[1].get(image.record.image_id)
        if known is None:
            return _failure(image, FileNotFoundError(f"There is no {path}."))
        if known.stage in _BEFORE_SCORES:
            return known
        why = f"{path} was not stored: the image failed in `{known.stage}` ({known.reason})"
        return _failure(image, FileNotFoundError(why))


def _read_failures(layout, shard):
    """The failures of a finished shard, by the image's id."""
    path = layout.manifest(shard)
    manifest = Manifest.from_json(io.read_json(path), path)
    return {failure.image_id: failure for failure in manifest.tally.failures}


def _failure(image, error):
    """The failure of an image until its score file is mended."""
    return Failure(image.shard, image.record.image_id, STAGE, describe_error(error), transient=True)


def _check(by_model, record, source):
    """Raises a `ValueError` where scores are not of this image."""
    size = (record.height, record.width)
    if by_model.scores.shape[1:] != size:
        raise ValueError(f"It is of an image of {by_model.scores.shape[1:]} pixels, not of {size}.")
    if len(by_model.classifier_scores) != source.classes:
        raise ValueError(f"It is of {len(by_model.classifier_scores)} classes, not of {source.classes}.")
    if source.image_labels == "truth" and by_model.class_ids != record.labels:
        raise ValueError("It is of other tags.")


def has_failed_later(manifest: Manifest) -> bool:
    """Whether an image of a shard has scores that were not stored, since a stage after them failed."""
    return any(failure.stage not in _BEFORE_SCORES for failure in manifest.tally.failures)
