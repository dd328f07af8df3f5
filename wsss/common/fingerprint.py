"""Fingerprints of content: they show whether a file, or a set of files, is unchanged.

A file's fingerprint is its size and the CRC-32C of its bytes, the checksum that TFRecord files and Cloud
Storage use too: the same bytes have the same fingerprint on disk and on `gs://`, where the store's metadata
gives it without a byte being read.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import google_crc32c

from wsss.common import io

_CHUNK = 1 << 20
_THREADS = 16


def of_bytes(data: bytes) -> str:
    """Fingerprint of bytes: their number and CRC-32C, hexadecimal."""
    return _format(len(data), google_crc32c.value(data))


def of_file(path: io.Path) -> str:
    """Fingerprint of a file's content, by reading it once in constant memory; on `gs://` from its metadata.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if io.is_remote(path):
        recorded = _of_object(path)
        if recorded:
            return recorded
    size, checksum = 0, 0
    with io.open_read(path) as stream:
        while chunk := stream.read(_CHUNK):
            checksum = google_crc32c.extend(checksum, chunk)
            size += len(chunk)
    return _format(size, checksum)


def of_files(paths: Sequence) -> list[str]:
    """The fingerprint of each file, several read at once."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(of_file, paths))


def size_in(fingerprint: str) -> int:
    """The number of bytes in a file's fingerprint."""
    return int(fingerprint.partition("-")[0], 16)


def is_of_file(text: object) -> bool:
    """Whether this is the fingerprint of a file."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{1,16}-[0-9a-f]{8}", text) is not None


def combine(parts: Iterable[str]) -> str:
    """One fingerprint, 16 hexadecimal digits, of a sequence of texts, such as names and fingerprints."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogateescape")
        digest.update(b"%d:" % len(encoded) + encoded)  # so that ("ab", "c") differs from ("a", "bc")
    return digest.hexdigest()[:16]


def _of_object(path):
    """From an object store's metadata, or None where the store does not keep a CRC-32C."""
    from apache_beam.io.filesystem import BeamIOError
    from apache_beam.io.filesystems import FileSystems

    filesystem = FileSystems.get_filesystem(path)
    if filesystem.scheme() != "gs":
        return None
    try:
        checksum = base64.b64decode(filesystem.checksum(path), validate=True)
        return _format(filesystem.size(path), int.from_bytes(checksum, "big")) if len(checksum) == 4 else None
    except (BeamIOError, TypeError, binascii.Error):  # no such object (reading it says so), or no checksum
        return None


def _format(size, checksum):
    return f"{size:x}-{checksum:08x}"
