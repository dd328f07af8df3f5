"""What a job chooses from a sample of its images, without any mask: background threshold and refinement."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import apache_beam as beam

from wsss.common import io
from wsss.pipeline.execution.graph_runner import GraphRunner
from wsss.pipeline.options import AUTO
from wsss.pipeline.output import Layout
from wsss.pipeline.stages.predict import CamSettings
from wsss.pipeline.stages.read import sample
from wsss.pipeline.stages.refine import RefinementSettings
from wsss.pipeline.stages.refinement_choice import CANDIDATES, ChooseRefinement, RefinementChoice
from wsss.pipeline.stages.scores import StoredScores
from wsss.pipeline.stages.threshold import ChooseThreshold, read_threshold

_IMAGES = 256  # from which `--background_threshold auto` chooses
_REFINED_IMAGES = 64  # on which `--refine auto` tries each refinement


@dataclass(frozen=True)
class Sampler:
    """Runs pipelines on a sample of a job's images.

    Attributes:
        graphs: runs a graph on shards of the job.
        source: how scores are computed, or where they are stored.
    """

    graphs: GraphRunner
    source: CamSettings | StoredScores

    def run(self, transform: beam.PTransform, images: int) -> None:
        """Runs a transform of `InputShard`s on about so many images."""
        self.graphs.run(sample(self.graphs.images.shards, images), transform)


def choose(
    rule: float | str | None,
    refinement: RefinementSettings,
    sampler: Sampler,
    layout: Layout,
    announce: Callable[[str], None],
) -> tuple[RefinementSettings, RefinementChoice | None]:
    """Chooses from the images what is `auto`, and keeps it in the output folder for a run that resumes.

    Args:
        rule: of the background threshold.
        refinement: how CAMs become masks, in which `auto` is replaced.
        sampler: runs pipelines on a sample of the images.
        layout: of the output.
        announce: function of a line of text, called with what is chosen.

    Returns:
        `(refinement, choice)`: complete settings; the choice of a refinement, or None where the user made it.
    """
    if rule == "auto":
        threshold = _choose_threshold(sampler, layout.path("threshold.json"))
        announce(f"Background threshold chosen from the images: {threshold:.2f}.")
        background = replace(refinement.background, threshold=threshold)
        refinement = replace(refinement, background=background)
    if refinement.stages != AUTO:
        return refinement, None
    choice = _choose_refinement(refinement, sampler, layout.path("refinement.json"))
    announce(f"Refinement chosen from the images: {choice.chosen}; {choice.reason}.")
    return replace(refinement, stages=choice.stages), choice


def _choose_threshold(sampler, path):
    """The background threshold, kept in the file at `path`."""
    if not io.exists(path):
        sampler.run(ChooseThreshold(sampler.source, path), _IMAGES)
    return read_threshold(path)


def _choose_refinement(settings, sampler, path):
    """The `RefinementChoice`, kept in the file at `path`; a walk is tried where there is a network for it."""
    if not io.exists(path):
        candidates = {
            name: replace(settings, stages=stages)
            for name, stages in CANDIDATES.items()
            if "walk" not in stages or settings.affinity_predictor
        }
        sampler.run(ChooseRefinement(sampler.source, candidates, path), _REFINED_IMAGES)
    return RefinementChoice.from_json(io.read_json(path), path)
