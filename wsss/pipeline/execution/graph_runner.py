"""Runs graphs on the shards of a job: here on the shards themselves, on a cluster on plan files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from wsss.pipeline.execution.remote_job import RemoteJob
from wsss.pipeline.execution.runner import is_local, make_pipeline, run, start
from wsss.pipeline.output import Layout
from wsss.pipeline.stages.plan_files import ReadPlans, write_plans
from wsss.pipeline.stages.read import ImageShards, InputShard


@dataclass(frozen=True)
class GraphRunner:
    """Runs graphs on shards of a job.

    Attributes:
        images: of the job.
        layout: of its output.
        beam_argv: Beam's flags.
    """

    images: ImageShards
    layout: Layout
    beam_argv: Sequence[str] = ()

    def run(self, shards: Iterable[InputShard], graph: beam.PTransform) -> Any:
        """Runs one pipeline to its end; Beam's `PipelineResult`, see `wsss.pipeline.runner.run`.

        Raises:
            UserError: see `wsss.pipeline.execution.runner.run`.
        """
        return run(self._pipeline(shards, graph))

    def start(self, shards: Iterable[InputShard], graph: beam.PTransform) -> RemoteJob:
        """Starts one pipeline on a cluster, and leaves it running.

        Raises:
            UserError: see `wsss.pipeline.execution.runner.start`.
        """
        return start(self._pipeline(shards, graph))

    def _pipeline(self, shards, graph):
        pipeline = make_pipeline(self.beam_argv)
        complete = self.images.with_paths(shards)
        source: beam.PTransform
        if is_local(self.beam_argv):
            source = beam.Create(list(complete), reshuffle=True)
        else:
            source = ReadPlans(write_plans(complete, self.layout))
        _ = pipeline | source | graph
        return pipeline
