"""The graph of the pipeline, looked at before it runs."""

import apache_beam as beam
import pytest

from wsss.pipeline.graph import LabelShards, WriteSettings
from wsss.pipeline.output import Layout
from wsss.pipeline.runner import make_pipeline
from wsss.pipeline.stages.predict import CamModelHandler, CamSettings
from wsss.pipeline.stages.read import InputShard
from wsss.pipeline.stages.refine import Background, RefinementSettings, refinement_stages

SHARD = InputShard("train-00000-of-00001", "content", 1)


def settings(*stages, write="masks"):
    predictor = ("affinity.keras", "hash", 1024) if "walk" in stages else None
    return RefinementSettings(stages, Background(0.2), "ppc", "labels", predictor, write=write)


def labels_of_steps(reshuffle, record_files=None):
    pipeline = make_pipeline()
    cams = CamSettings(CamModelHandler("model.keras", "hash"), None)
    writing = WriteSettings(Layout("labels"), 4, record_files)
    graph = LabelShards(cams, settings(), writing, reshuffle=reshuffle)
    _ = pipeline | beam.Create([SHARD], reshuffle=False) | graph
    found = []

    class Visitor(beam.pipeline.PipelineVisitor):
        def enter_composite_transform(self, node):
            found.append(node.full_label)

    pipeline.visit(Visitor())
    return found


@pytest.mark.parametrize("reshuffle", [False, True])
def test_cams_are_shuffled_only_where_crf_and_inference_run_apart(reshuffle):
    steps = labels_of_steps(reshuffle)
    assert any(step.endswith("LabelShards/Reshuffle") for step in steps) is reshuffle


def test_only_a_crf_is_worth_workers_of_its_own():
    assert not settings().use_crf
    assert settings("crf").use_crf
    assert settings(write="irn_labels").use_crf
    assert not settings("crf").use_accelerator
    assert settings("walk", "crf").use_accelerator


def test_stages_come_in_their_order():
    names = [type(stage).__name__ for stage in refinement_stages(settings("pamr", "walk", "crf"))]
    assert names == ["MergeScales", "RefinePAMR", "RefineWalk", "RefineCRF", "LabelPixels"]
    names = [type(stage).__name__ for stage in refinement_stages(settings(write="affinity_labels"))]
    assert names == ["MergeScales", "LabelAffinity"]


def test_a_folder_without_a_record_writer_has_none_in_its_graph():
    assert not any("WriteRecords" in step for step in labels_of_steps(False))
    assert any("WriteRecords" in step for step in labels_of_steps(False, {SHARD.name: "records"}))
