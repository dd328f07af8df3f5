"""Collections on `gs://`, here a storage emulator on loopback."""

import socket

import numpy as np
import pytest

from wsss.common import io
from wsss.common.errors import UserError
from wsss.data.dataset import open_collection
from wsss.data.loader import training_dataset
from wsss.data.synthetic import write_synthetic_collection


@pytest.fixture(scope="module")
def bucket():
    """`gs://bucket`, served by this process."""
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcp-storage-emulator")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        server.start()
        yield "gs://bucket"
        server.stop()


@pytest.mark.slow
def test_remote_files_behave_like_local_ones(bucket):
    path = io.join(bucket, "folder", "a.json")
    io.write_json(path, {"a": 1})
    assert io.read_json(path) == {"a": 1}
    assert io.exists(path)
    assert io.list_files(io.join(bucket, "folder", "*.json")) == [path]
    with pytest.raises(FileNotFoundError):
        io.read_bytes(io.join(bucket, "folder", "b.json"))

    def fail():
        with io.open_write(io.join(bucket, "folder", "b.json")) as stream:
            stream.write(b"half")
            raise OSError("interrupted")

    with pytest.raises(OSError, match="interrupted"):
        fail()
    assert io.list_files(io.join(bucket, "folder", "**")) == [path]
    io.remove_tree(io.join(bucket, "folder"))
    assert not io.exists(path)


@pytest.mark.slow
def test_a_remote_collection_is_that_of_the_same_bytes_on_disk(bucket, tmp_path):
    with pytest.raises(UserError, match="No collection"):
        open_collection(io.join(bucket, "drawn"))
    remote = write_synthetic_collection(io.join(bucket, "drawn"), images=6, size=32)
    local = write_synthetic_collection(tmp_path, images=6, size=32)
    assert open_collection(io.join(bucket, "drawn")) == remote
    assert list(remote.read("train")) == list(local.read("train"))
    options = {"batch_size": 2, "image_size": 16, "seed": 1}
    for one, two in zip(
        training_dataset(remote, "train", **options).take(3),
        training_dataset(local, "train", **options).take(3),
    ):
        np.testing.assert_array_equal(one[0], two[0])
