"""Manifests of many shards are read a few at a time."""

import weakref

import numpy as np
import pytest

from wsss.common import io
from wsss.pipeline.dead_letter import Failure
from wsss.pipeline.output import LabelSettings, Layout
from wsss.pipeline.plan import plan_job
from wsss.pipeline.stages import manifest as manifests
from wsss.pipeline.stages.describe import ImageRow
from wsss.pipeline.stages.manifest import Manifest, RecordFile, stream_manifests, write_manifest
from wsss.pipeline.stages.read import InputShard
from wsss.pipeline.stages.score import Tally
from wsss.pipeline.summary import write_results

SHARDS = [f"train-{index:05d}-of-00100" for index in range(100)]
SETTINGS = LabelSettings(
    {"refine": [], "image_labels": "truth", "split": "train", "output_format": "png", "write": "masks"},
    "model hash",
    ("cat", "dog"),
)


@pytest.fixture
def layout(tmp_path):
    """A folder of 100 finished shards; the third and the last have a failure."""
    layout = Layout(str(tmp_path))
    for index, shard in enumerate(SHARDS):
        failed = (Failure(shard, f"broken_{index}", "decode", "why"),) if index in (2, 99) else ()
        pixels = np.zeros(256, np.int64)
        pixels[[0, 2]] = index, 10 * index
        tally = Tally(1, failed, pixels, (pixels > 0).astype(np.int64))
        image_id = f"image_{index}"
        made = Manifest(shard, f"hash {index}", tally, (image_id,), RecordFile(1, 1000, f"records-{index}"))
        io.write_bytes(layout.path(f"records-{index}"), b"record")
        write_manifest(layout, made, [ImageRow(image_id)])
    return layout


@pytest.fixture
def alive(monkeypatch):
    """The manifests that are in memory."""
    found, parse = weakref.WeakSet(), Manifest.from_json

    def from_json(value, path):
        manifest = parse(value, path)
        found.add(manifest)
        most.append(len(found))
        return manifest

    most = [0]
    monkeypatch.setattr(Manifest, "__hash__", object.__hash__)
    monkeypatch.setattr(Manifest, "from_json", staticmethod(from_json))
    return most


def test_results_are_added_up_with_a_few_manifests_in_memory(layout, alive):
    result = write_results(layout, stream_manifests(layout, SHARDS), SETTINGS, name="data")
    assert len(alive) == 101
    assert max(alive) <= 2
    assert (result.labeled, result.failed) == (100, 2)
    summary = io.read_json(layout.path("summary.json"))
    assert summary["shards"] == 100
    assert summary["class_pixels"] == {"background": 4950, "cat": 0, "dog": 49500}
    assert summary["class_images"] == {"background": 99, "cat": 0, "dog": 99}
    errors = io.read_text(layout.path("errors.jsonl")).splitlines()
    assert ["broken_2" in errors[0], "broken_99" in errors[1]] == [True, True]
    assert io.read_text(layout.path("images.csv")).count("image_") == 100


def test_a_job_is_planned_with_a_few_manifests_in_memory(layout, alive):
    shards = [InputShard(shard, f"hash {index}", 1) for index, shard in enumerate(SHARDS)]
    plan = plan_job([*shards[:50], InputShard(SHARDS[50], "another", 1), *shards[51:]], layout)
    assert max(alive) <= 2
    assert plan.finished == 99
    assert [shard.name for shard in plan.todo] == [SHARDS[50]]
    assert io.read_json(layout.path("retired.json")) == {
        "image_ids": ["image_50"],
        "record_files": ["records-50"],
    }


def test_files_are_read_ahead_in_their_order_and_not_all_at_once(monkeypatch):
    monkeypatch.setattr(manifests, "_AT_A_TIME", 4)
    started = []

    def read(path):
        started.append(path)
        return int(path)

    found = manifests.read_ahead(read, map(str, range(10)))
    assert next(found) == ("0", 0)
    assert len(started) <= 4
    assert list(found) == [(str(index), index) for index in range(1, 10)]
