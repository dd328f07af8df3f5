"""Fingerprints follow the content, wherever it lies."""

import pytest

from tests.gcs_emulator import emulated_bucket
from wsss.common import fingerprint, io


def test_a_fingerprint_is_the_size_and_the_checksum(tmp_path):
    (tmp_path / "nine").write_bytes(b"123456789")
    assert fingerprint.of_file(tmp_path / "nine") == "9-e3069283"  # the check value of CRC-32C
    assert fingerprint.of_bytes(b"123456789") == "9-e3069283"
    assert fingerprint.of_bytes(b"") == "0-00000000"


def test_a_file_of_many_chunks_has_the_fingerprint_of_its_bytes(tmp_path):
    data = bytes(range(256)) * 10_000
    (tmp_path / "large").write_bytes(data)
    assert fingerprint.of_file(tmp_path / "large") == fingerprint.of_bytes(data)


def test_files_are_fingerprinted_in_the_order_given(tmp_path):
    paths = [tmp_path / name for name in "cab"]
    for path in paths:
        path.write_text(path.name)
    assert fingerprint.of_files(paths) == [fingerprint.of_bytes(name.encode()) for name in "cab"]


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        fingerprint.of_file(tmp_path / "missing")


def test_combined_fingerprints_depend_on_each_part_and_their_order():
    sequences = [["ab", "c"], ["a", "bc"], ["c", "ab"], ["ab"], ["ab", "c", ""]]
    assert len({fingerprint.combine(parts) for parts in sequences}) == len(sequences)
    assert fingerprint.combine(iter(["ab", "c"])) == fingerprint.combine(["ab", "c"])
    assert fingerprint.combine(["\udcff"])  # of a file name that is no UTF-8


@pytest.mark.slow
def test_a_remote_object_has_the_fingerprint_of_the_same_bytes_on_disk(monkeypatch):
    with emulated_bucket(monkeypatch) as bucket:
        path = io.join(bucket, "folder", "nine")
        io.write_bytes(path, b"123456789")
        assert fingerprint.of_file(path) == "9-e3069283"
        with pytest.raises(FileNotFoundError):
            fingerprint.of_file(io.join(bucket, "missing"))
        monkeypatch.setattr(io, "open_read", None)  # the metadata tell it: nothing is read
        assert fingerprint.of_file(path) == "9-e3069283"
