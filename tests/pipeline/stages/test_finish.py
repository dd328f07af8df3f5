"""A shard is finished as soon as its images are there, in whatever order and company they come."""

import itertools

import numpy as np
import pytest

from tests.beam_outputs import outputs_of
from tests.pseudo_label_cases import make_records
from wsss.common import io
from wsss.data.tfrecord import read_records
from wsss.pipeline.dead_letter import Failure, ShardEnd
from wsss.pipeline.output import Layout
from wsss.pipeline.stages.describe import ImageRow
from wsss.pipeline.stages.finish import FinishShards, ShardPart
from wsss.pipeline.stages.manifest import read_manifests
from wsss.pipeline.stages.read import InputImage
from wsss.pipeline.stages.refine import ScoredImage
from wsss.pipeline.stages.score import Tally
from wsss.pipeline.stages.write import LabeledImage


def labeled(shard, record):
    mask = np.zeros((record.height, record.width), np.uint8)
    image = InputImage(shard, record, False)
    scored = ScoredImage(image, (), np.zeros((0, *mask.shape)), np.zeros(3), mask=mask)
    return LabeledImage(scored, Tally(images=1), ImageRow(record.image_id))


@pytest.fixture
def elements():
    """Two images and a failure of shard `a`, none of shard `b`."""
    first, second = make_records(2)
    failure = Failure("a", "broken", "decode", "why")
    return [
        labeled("a", second),
        failure,
        labeled("a", first),
        ShardEnd("a", "content", 3),
        ShardEnd("b", "no content", 0),
    ]


def test_a_manifest_lists_the_images_and_failures_of_its_shard(elements, tmp_path):
    layout = Layout(str(tmp_path))
    finished, _ = outputs_of(FinishShards(layout), elements)
    assert sorted(finished) == ["a", "b"]
    manifests = read_manifests(layout)
    assert manifests["a"].image_ids == ("image_00", "image_01")
    assert manifests["a"].source == "content"
    assert [failure.image_id for failure in manifests["a"].tally.failures] == ["broken"]
    assert manifests["b"].image_ids == ()


def test_records_are_in_the_order_of_their_ids(elements, tmp_path):
    layout = Layout(str(tmp_path))
    outputs_of(FinishShards(layout, {"a": "records_a", "b": "records_b"}), elements)
    assert len(list(read_records(layout.path("records_a")))) == 2
    assert not list(read_records(layout.path("records_b")))
    assert [read_manifests(layout)[shard].records.count for shard in "ab"] == [2, 0]


def test_the_end_of_a_shard_may_come_before_its_images(elements, tmp_path):
    layouts = [Layout(str(tmp_path / name)) for name in ("in_order", "reversed")]
    for layout, members in zip(layouts, (elements, elements[::-1]), strict=True):
        outputs_of(FinishShards(layout), members)
    contents = [{name: io.read_bytes(layout.manifest(name)) for name in ("a", "b")} for layout in layouts]
    assert contents[0] == contents[1]


def test_a_shard_that_comes_in_parts_is_finished_after_all(elements, tmp_path, monkeypatch):
    """As on a runner that gives each element a bundle of its own: nothing is complete within one."""
    monkeypatch.setattr(ShardPart, "is_complete", property(lambda part: False))
    layout = Layout(str(tmp_path))
    finished, _ = outputs_of(FinishShards(layout), elements)
    assert sorted(finished) == ["a", "b"]
    assert read_manifests(layout)["a"].image_ids == ("image_00", "image_01")


def test_parts_add_up_to_a_shard_in_any_order(elements):
    parts = [ShardPart.of(element, False) for element in elements[:4]]
    for order in itertools.permutations(parts):
        total = sum(order, ShardPart())
        assert total.is_complete
        assert {row.image_id for row in total.rows} == {"image_00", "image_01"}
    for missing in range(4):
        rest = parts[:missing] + parts[missing + 1 :]
        assert not sum(rest, ShardPart()).is_complete
