"""Reading shards into batches."""

import pytest
from PIL import Image

from tests.beam_outputs import outputs_of
from tests.gcs_emulator import emulated_bucket
from tests.pseudo_label_cases import CLASS_NAMES, make_records, write_collection
from wsss.common import io
from wsss.common.errors import UserError
from wsss.data.synthetic import write_synthetic_collection
from wsss.data.tfrecord import read_records, write_records
from wsss.pipeline.dead_letter import PASSED_ON, Failure
from wsss.pipeline.stages.read import ReadBatches, open_images


def read(images, batch_size=16):
    """What `ReadBatches` gives: batches, and failures."""
    outputs, _ = outputs_of(ReadBatches(images.collection, batch_size), [*images.with_paths(images.shards)])
    failures = [batch[0] for batch in outputs if isinstance(batch[0], Failure)]
    return [batch for batch in outputs if not isinstance(batch[0], PASSED_ON)], failures


@pytest.fixture
def collection(tmp_path):
    write_collection(str(tmp_path / "data"), make_records())
    return str(tmp_path / "data")


def test_batches_hold_images_of_one_shard_and_one_size(collection):
    batches, failures = read(open_images(collection, "train"), batch_size=2)
    assert not failures
    for batch in batches:
        assert len(batch) <= 2
        assert len({(item.shard, item.record.height, item.record.width) for item in batch}) == 1
    ids = [item.record.image_id for batch in batches for item in batch]
    assert sorted(ids) == [f"image_{index:02d}" for index in range(12)]


def test_shards_of_a_collection_are_its_files(collection):
    images = open_images(collection, "train")
    assert images.collection.class_names == CLASS_NAMES
    assert [shard.name for shard in images.shards] == [f"train-{index:05d}-of-00003" for index in range(3)]
    assert [shard.images for shard in images.shards] == [4, 4, 4]


@pytest.mark.parametrize(
    ("previews", "positions"),
    [(0, [(), (), ()]), (2, [(3,), (), (1,)]), (3, [(2,), (2,), (2,)]), (99, [(0, 1, 2, 3)] * 3)],
)
def test_pictures_are_of_images_spaced_evenly_over_the_split(collection, previews, positions):
    images = open_images(collection, "train", previews=previews)
    assert [shard.previews for shard in images.shards] == positions
    batches, _ = read(images)
    chosen = sum(item.preview for batch in batches for item in batch)
    assert chosen == min(previews, 12)


def test_all_splits_are_read_at_once(tmp_path):
    write_synthetic_collection(str(tmp_path), images=5, size=32)
    images = open_images(str(tmp_path), "all", previews=5)
    assert [(shard.name, shard.images) for shard in images.shards] == [
        ("train-00000-of-00001", 4),
        ("val-00000-of-00001", 1),
    ]
    batches, failures = read(images)
    assert sum(item.preview for batch in batches for item in batch) == 5
    assert not failures


def test_pictures_of_a_folder_are_spaced_evenly_over_its_names(tmp_path):
    write_images(tmp_path, [f"{index}.png" for index in range(9)])
    batches, _ = read(open_images(str(tmp_path), "all", images_per_shard=2, previews=3))
    chosen = [item.record.image_id for batch in batches for item in batch if item.preview]
    assert sorted(chosen) == ["1", "4", "7"]


def test_images_of_a_format_that_is_not_read_are_counted(tmp_path):
    write_images(tmp_path, ["a.png"])
    Image.new("RGB", (8, 8)).save(tmp_path / "b.webp")
    batches, (failure,) = read(open_images(str(tmp_path), "all"))
    assert [item.record.image_id for batch in batches for item in batch] == ["a"]
    assert (failure.image_id, failure.stage) == ("b", "decode")
    assert "Convert it to JPEG or PNG" in failure.reason


def test_a_record_that_cannot_be_parsed_costs_itself(collection):
    path = open_images(collection, "train").shards[0].record_path
    serialized = list(read_records(path))
    write_records(path, [serialized[0], b"no example", *serialized[2:]])
    batches, (failure,) = read(open_images(collection, "train"))
    assert sum(map(len, batches)) == 11
    assert (failure.stage, failure.image_id) == ("read", "tiny-train.tfrecord-00000-of-00003__1")


def test_a_missing_file_costs_its_images(collection, tmp_path):
    (tmp_path / "data" / "tiny-train.tfrecord-00002-of-00003").unlink()
    batches, failures = read(open_images(collection, "train"))
    assert sum(map(len, batches)) == 8
    assert [failure.stage for failure in failures] == ["read"] * 4


def write_images(folder, names):
    for name, record in zip(names, make_records(len(names)), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(record.image_bytes)


def test_a_folder_is_hashed_into_shards_whatever_its_order(tmp_path):
    write_images(tmp_path, ["b.png", "a.PNG", "sub/c.png", "sub/a.png", ".hidden.png"])
    images = open_images(str(tmp_path), "all", images_per_shard=2)
    assert images.collection is None
    assert len(images.shards) == 2
    batches, failures = read(images)
    assert not failures
    assert sorted(item.record.image_id for batch in batches for item in batch) == ["a", "b", "sub/a", "sub/c"]
    again = open_images(str(tmp_path) + "/", "all", images_per_shard=2)
    assert [shard.source for shard in again.shards] == [shard.source for shard in images.shards]


def test_images_that_differ_in_their_suffix_keep_it(tmp_path):
    write_images(tmp_path, ["a.png", "a.jpg", "b.png"])
    batches, _ = read(open_images(str(tmp_path), "all"))
    assert sorted(item.record.image_id for batch in batches for item in batch) == ["a.jpg", "a.png", "b"]


def test_a_folder_without_images_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match="neither a collection"):
        open_images(str(tmp_path), "all")


def test_new_content_makes_another_shard_locally_and_in_a_bucket(tmp_path, monkeypatch):
    first, second = make_records(2)
    with emulated_bucket(monkeypatch) as bucket:
        for folder in (str(tmp_path), f"{bucket}/photos"):
            sources = []
            for record in (first, second):
                io.write_bytes(f"{folder}/a.png", record.image_bytes)
                twice = [open_images(folder, "all").shards[0].source for _ in range(2)]
                assert twice[0] == twice[1]
                sources.append(twice[0])
            assert sources[0] != sources[1]
