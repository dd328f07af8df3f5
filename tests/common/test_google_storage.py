"""Requests to an emulated bucket: as few as it takes, and the same files as without counting them."""

import logging

import pytest

from tests.gcs_emulator import emulated_bucket, requests
from wsss.common import io
from wsss.common.output_folder import claim

OWNED = ("done.json", "masks/**/*.png")


@pytest.fixture
def bucket(monkeypatch):
    logging.getLogger("gcp_storage_emulator.server").setLevel(logging.ERROR)
    with emulated_bucket(monkeypatch) as path:
        io.write_bytes(f"{path}/first", b"")  # a new client asks for the bucket once
        requests.clear()
        yield path


def count(kind=""):
    """Requests so far of a kind, without those of new clients for the bucket; counted anew from here on."""
    found = sum(
        number for name, number in requests.items() if kind in name and not name.endswith("/b/wsss-test")
    )
    requests.clear()
    return found


def test_an_object_is_written_read_and_looked_up_by_one_request_each(bucket):
    path = f"{bucket}/folder/a b#[1].bin"
    io.write_bytes(path, b"content")
    assert count() == 1
    assert io.read_bytes(path) == b"content"
    assert count() == 1
    assert io.exists(path)
    assert count() == 1
    assert io.size(path) == 7
    assert count() == 1
    assert io.list_files(f"{bucket}/folder/*") == [path]
    assert count() == 1


def test_an_object_of_many_pieces_is_read_as_a_stream(bucket):
    content = bytes(range(256)) * 40_000  # more than one request writes
    with io.open_write(f"{bucket}/large") as stream:
        stream.write(content)
    with io.open_read(f"{bucket}/large") as stream:
        assert stream.read(1000) + stream.read() == content


@pytest.mark.parametrize("read", [io.read_bytes, io.open_read, io.size])
def test_a_missing_object_is_named_as_a_missing_file(bucket, read):
    with pytest.raises(FileNotFoundError, match="No such object: gs://wsss-test/absent"):
        read(f"{bucket}/absent")


def test_a_write_that_fails_leaves_the_old_object(bucket):
    io.write_bytes(f"{bucket}/value", b"old")

    def fail():
        with io.open_write(f"{bucket}/value") as stream:
            stream.write(b"new")
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        fail()
    assert io.read_bytes(f"{bucket}/value") == b"old"


@pytest.mark.slow
def test_objects_are_removed_a_hundred_at_a_time_and_absent_ones_are_no_error(bucket):
    paths = [f"{bucket}/folder/{index}" for index in range(230)]
    for path in paths[:220]:
        io.write_bytes(path, b"x")
    io.write_bytes(f"{bucket}/folder/other", b"kept")
    count()
    io.remove_files(paths)
    assert count() == 3
    assert io.list_files(f"{bucket}/**") == [f"{bucket}/first", f"{bucket}/folder/other"]
    io.remove(f"{bucket}/folder/other")
    io.remove(f"{bucket}/folder/other")
    assert not io.exists(f"{bucket}/folder/other")


@pytest.mark.slow
def test_the_requests_that_replace_results_are_a_hundredth_of_the_files(bucket):
    files = [f"masks/{index}.png" for index in range(220)]
    folder = f"{bucket}/labels"
    for content in (b"old", b"new"):
        claimed = claim(folder, "pseudo_labels", owned=OWNED, overwrite=True)
        claimed.begin(clear=True)
        for name in files if content == b"old" else files[:210]:
            io.write_bytes(io.join(claimed.work, name), content)
        io.write_bytes(io.join(claimed.work, "done.json"), content)
        count()
        claimed.publish()
    assert count() < 30
    assert io.read_bytes(f"{folder}/masks/209.png") == b"new"
    assert len(io.list_files(f"{folder}/**")) == 210 + 2  # and `done.json`, the marker
