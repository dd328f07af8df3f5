"""Plan files: the shards of a job on a cluster, in files beside the output and not in the job's graph.

A graph holds the paths of these files alone, so that it is small however many images there are: Dataflow
takes graphs of 10 MB, and the names of 1,000,000 images would be 47 MB.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import apache_beam as beam

from wsss.common import io
from wsss.pipeline.output import PLANS, Layout
from wsss.pipeline.stages.read import InputShard

_SHARDS = 128  # in a file


class ReadPlans(beam.PTransform):
    """The `InputShard`s in plan files.

    Args:
        paths: of the files, as from `write_plans`.
    """

    def __init__(self, paths: list[str]):
        super().__init__()
        self._paths = paths

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        shards = begin | beam.Create(self._paths) | "ReadPlan" >> beam.FlatMap(read_plan)
        return shards | beam.Reshuffle()


def write_plans(shards: Iterable[InputShard], layout: Layout) -> list[str]:
    """Writes shards to plan files, a few at a time in memory; returns their paths."""
    paths: list[str] = []
    shards = iter(shards)
    while some := list(itertools.islice(shards, _SHARDS)):
        paths.append(layout.path(f"{PLANS}/{len(paths):05d}.json"))
        io.write_text(
            paths[-1], json.dumps([asdict(shard) for shard in some])
        )  # ASCII: of any bytes in paths
    return paths


def read_plan(path: str) -> Iterator[InputShard]:
    """Yields the shards in a plan file."""
    for fields in io.read_json(path):
        fields["image_paths"] = tuple(map(tuple, fields["image_paths"]))
        fields["image_labels"] = tuple(
            None if each is None else tuple(each) for each in fields["image_labels"]
        )
        yield InputShard(**{**fields, "previews": tuple(fields["previews"])})
