"""How a listed collection is divided into shards."""

import json
from pathlib import Path

import numpy as np
import pytest

from wsss.data.sources.base import ListedImage, Listing
from wsss.data.sources.mask_coding import MaskCoding
from wsss.pipeline.stages import collection
from wsss.pipeline.stages.collection import plan_items

MIB = 1 << 20


def plan(folder, sizes, shards=None):
    """Bytes of the images of each shard that is planned; the files take no room."""
    items = []
    for index, size in enumerate(sizes):
        path = folder / f"{index}.jpg"
        if size is not None:
            with path.open("wb") as file:
                file.truncate(size)
        items.append(ListedImage(str(index), "train", (0,), str(path)))
    listing = Listing(("cat",), items, False)
    paths = plan_items(listing, str(folder / "out"), "tiny", shards, 10**6, MaskCoding())
    members = [json.loads(Path(path).read_text())["items"] for path in paths]
    assert sorted(item[0] for each in members for item in each) == sorted(map(str, range(len(sizes))))
    return [sum(sizes[int(item[0])] or 0 for item in each) for each in members]


def test_shards_of_large_images_are_of_a_bounded_number_of_bytes(tmp_path):
    found = plan(tmp_path, [10 * MIB] * 200)
    assert all(128 * MIB <= size <= 256 * MIB for size in found)


def test_shards_of_images_of_many_sizes_are_about_as_large(tmp_path):
    sizes = np.random.default_rng(0).exponential(8 * MIB, 700).astype(int).tolist()
    found = plan(tmp_path, sizes)  # a sample of every second one is asked for
    assert all(96 * MIB <= size <= 288 * MIB for size in found)


def test_shards_of_small_images_are_of_a_bounded_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "_SHARD_IMAGES", 20)
    assert len(plan(tmp_path, [1000] * 410)) == 21
    assert len(plan(tmp_path, [1000] * 70)) == 4


@pytest.mark.parametrize("shards", [1, 3])
def test_a_number_of_shards_that_is_asked_for_is_kept(tmp_path, shards):
    assert len(plan(tmp_path, [500 * MIB, None, 500 * MIB], shards)) == shards


def test_images_that_are_missing_count_for_no_bytes(tmp_path):
    assert plan(tmp_path, [None, 100 * MIB, None]) == [100 * MIB]
