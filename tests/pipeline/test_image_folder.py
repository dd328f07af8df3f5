"""`wsss.pipeline.image_folder`: a folder of many images in little memory."""

import tracemalloc

import pytest

from wsss.data.sources.files import ListedFile
from wsss.pipeline import image_folder
from wsss.pipeline.image_folder import ImageFolder
from wsss.pipeline.stages.read import open_images


@pytest.fixture
def bucket_of(monkeypatch):
    """Function of a number of images that gives a folder in a store which lists so many."""

    def make(images):
        def stream(folder, excluded, problems):
            for index in range(images):
                name = f"photographs/of/2026/{index:08d}.jpg"
                yield ListedFile(name, f"{folder}/{name}", "1f00-1790000000.0")

        monkeypatch.setattr(image_folder, "stream_folder", stream)
        return "gs://bucket/photos"

    return make


def test_a_name_takes_no_memory(bucket_of):
    peaks = []
    for images in (2_000, 12_000):
        folder = bucket_of(images)
        tracemalloc.start()
        ImageFolder(folder, 64)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 10_000 < 100  # a name of such a length and its path take 300 bytes


def test_each_image_is_in_one_shard_and_pictures_are_of_as_many_as_asked(bucket_of, monkeypatch):
    monkeypatch.setattr("wsss.common.io.exists", lambda path: False)
    images = open_images(bucket_of(1000), "all", previews=12)
    assert sum(shard.images for shard in images.shards) == 1000
    assert sum(len(shard.previews) for shard in images.shards) == 12
    assert not any(shard.image_paths for shard in images.shards)
    paths = [pair for shard in images.with_paths(images.shards) for pair in shard.image_paths]
    assert len(set(paths)) == 1000
    for image_id, path in paths:
        assert path == f"gs://bucket/photos/{image_id}.jpg"


def test_images_with_one_name_but_for_the_suffix_keep_it(monkeypatch):
    names = ["a.jpg", "a.png", "b.jpg", "notes.txt"]
    files = [ListedFile(name, f"gs://bucket/{name}", "1-1") for name in names]
    monkeypatch.setattr(image_folder, "stream_folder", lambda *_: iter(files))
    folder = ImageFolder("gs://bucket", 64)
    assert [image_id for _, image_id, _ in folder.members(0)] == ["a.jpg", "a.png", "b"]
