"""The graph of the pipeline, inspected before it runs."""

import apache_beam as beam
import pytest

from wsss.pipeline.execution.runner import make_pipeline
from wsss.pipeline.graph import LabelShards, WriteSettings
from wsss.pipeline.output import Layout
from wsss.pipeline.stages.predict import CamModelHandler, CamSettings
from wsss.pipeline.stages.read import InputShard
from wsss.pipeline.stages.refine import Background, RefinementSettings, refinement_stages
from wsss.pipeline.stages.refinement_choice import ChooseRefinement
from wsss.pipeline.stages.threshold import ChooseThreshold

SHARD = InputShard("train-00000-of-00001", "content", 1)


def settings(*stages, write="masks"):
    predictor = ("affinity.keras", "hash", 1024) if "walk" in stages else None
    return RefinementSettings(stages, Background(0.2), "ppc", "labels", predictor, write=write)


def build(record_files=None):
    pipeline = make_pipeline()
    cams = CamSettings(CamModelHandler("model.keras", "hash"), None)
    writing = WriteSettings(Layout("labels"), 4, record_files)
    _ = pipeline | beam.Create([SHARD], reshuffle=False) | LabelShards(cams, settings("pamr", "crf"), writing)
    return pipeline


def labels_of_steps(record_files):
    pipeline = build(record_files)
    found = []

    class Visitor(beam.pipeline.PipelineVisitor):
        def enter_composite_transform(self, node):
            found.append(node.full_label)

    pipeline.visit(Visitor())
    return found


@pytest.mark.parametrize("record_files", [None, {SHARD.name: "records"}])
def test_no_stage_from_the_reader_to_the_manifest_shuffles(record_files):
    steps = labels_of_steps(record_files)
    finish = next(index for index, step in enumerate(steps) if step.endswith("FinishShards"))
    shuffles = ("GroupByKey", "Reshuffle", "Flatten", "CombinePerKey")
    assert not [step for step in steps[:finish] if step.rsplit("/")[-1] in shuffles]


CAMS = CamSettings(
    CamModelHandler("model.keras", "hash", resource_hints={"accelerator": "type:nvidia-l4;count:1"}), None
)


@pytest.mark.parametrize(
    "make_transform",
    [
        lambda: LabelShards(CAMS, settings("pamr", "walk", "crf"), WriteSettings(Layout("labels"), 4)),
        lambda: ChooseThreshold(CAMS, "threshold.json"),
        lambda: ChooseRefinement(CAMS, {"none": settings(), "pamr": settings("pamr")}, "refinement.json"),
    ],
    ids=["labels", "threshold", "refinement"],
)
def test_all_stages_of_a_worker_ask_for_the_accelerator(make_transform):
    pipeline, transform = make_pipeline(), make_transform()
    _ = pipeline | beam.Create([SHARD], reshuffle=False) | transform
    graph = pipeline.to_runner_api().components
    hints = {
        stage.unique_name: graph.environments[stage.environment_id].resource_hints
        for stage in graph.transforms.values()
        if f"{type(transform).__name__}/" in stage.unique_name and stage.spec.urn == "beam:transform:pardo:v1"
    }
    assert len(hints) > 5
    assert {tuple(each.values()) for each in hints.values()} == {(b"type:nvidia-l4;count:1",)}


def test_stages_come_in_their_order():
    names = [type(stage).__name__ for stage in refinement_stages(settings("pamr", "walk", "crf"))]
    assert names == ["KeepUnrefined", "RefinePAMR", "RefineWalk", "RefineCRF", "LabelPixels"]
    names = [type(stage).__name__ for stage in refinement_stages(settings(write="affinity_labels"))]
    assert names == ["LabelAffinity"]
