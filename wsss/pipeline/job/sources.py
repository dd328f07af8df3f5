"""Where a job takes the scores of each shard from: the model, or files of an earlier job."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from wsss.pipeline.job.inputs import Inputs
from wsss.pipeline.job.score_folder import ScoreFolder
from wsss.pipeline.job.settings import JobSettings
from wsss.pipeline.stages.predict import CamSettings
from wsss.pipeline.stages.read import InputShard
from wsss.pipeline.stages.scores import StoredScores


@dataclass(frozen=True)
class ScoreSources:
    """Where a job takes the scores of each shard from.

    Attributes:
        cams: how the model computes them.
        stored: those that are stored, or None.
        names: of the shards whose scores are stored.
    """

    cams: CamSettings
    stored: StoredScores | None = None
    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, job: JobSettings, inputs: Inputs, scores: ScoreFolder | None) -> "ScoreSources":
        """Those of a job.

        Raises:
            UserError: the job has no model, and scores of a shard are missing.
        """
        shards, collection = inputs.images.shards, inputs.images.collection
        cams = replace(job.cams, collection=collection)
        if scores is None:
            return cls(cams)
        if job.labels:
            scores.check(shards, job.images.data)
            names = frozenset(shard.name for shard in shards)
        else:
            names = scores.usable(shards)
        stored = StoredScores(
            scores.layout,
            collection,
            cams.image_labels,
            cams.label_threshold,
            len(inputs.class_names),
            cams.resource_hints,
        )
        return cls(cams, stored, names)

    def of_all(self, shards: Iterable[InputShard]) -> CamSettings | StoredScores:
        """The one source of all these shards."""
        if self.stored is not None and self.names.issuperset(shard.name for shard in shards):
            return self.stored
        return self.cams

    def divide(
        self, shards: Sequence[InputShard]
    ) -> Iterator[tuple[CamSettings | StoredScores, list[InputShard]]]:
        """Yields each source that is needed, with its shards."""
        stored, others = (
            [each for each in shards if (each.name in self.names) is of] for of in (True, False)
        )
        if self.stored is not None and stored:
            yield self.stored, stored
        if others:
            yield self.cams, others
