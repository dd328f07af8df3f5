"""Objects of Google Cloud Storage with as few requests as it takes; called by `wsss.common.io` alone.

Beam's file system makes a client for each operation, which connects and asks for the bucket anew; it asks for
an object before it reads it, lists it before it removes it, and writes the smallest one in two requests. Here
a thread keeps its client: an object is read, written or looked up by one request, and a hundred are removed
by one, sixteen such requests at a time.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

from wsss.common import compat

PREFIX = "gs://"
_BATCH = 100  # objects that one request removes or copies, the most that the service takes
_THREADS = 16
_kept = threading.local()


def read(path: str) -> bytes:
    """The content of an object, as it is stored.

    Raises:
        FileNotFoundError: there is no such object.
    """
    return _found(path, lambda: _blob(path).download_as_bytes(raw_download=True))


def open_read(path: str) -> BinaryIO:
    """An object as a stream, read in pieces.

    Raises:
        FileNotFoundError: there is no such object.
    """
    return _found(path, lambda: _client().open(path, "rb"))


def write(path: str, stream: Any) -> None:
    """Writes an object from a stream; it appears when it is complete.

    Args:
        path: of the object.
        stream: a seekable binary stream, of which everything is written.
    """
    from google.cloud.storage.retry import DEFAULT_RETRY

    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    _blob(path).upload_from_file(
        stream, size=size, content_type="application/octet-stream", retry=DEFAULT_RETRY
    )


def exists(path: str) -> bool:
    """Whether there is an object."""
    return _client().exists(path)


def size(path: str) -> int:
    """Number of bytes of an object.

    Raises:
        FileNotFoundError: there is no such object.
    """
    return _found(path, lambda: _client().size(path))


def list_objects(pattern: str) -> Iterator[Any]:
    """Yields the `FileMetadata` of each object that a glob pattern of Beam's matches, by listing alone."""
    from apache_beam.io.filesystem import FileMetadata
    from apache_beam.io.filesystems import FileSystems

    found = _client().list_files(re.split(r"[\[*?]", pattern, maxsplit=1)[0], with_metadata=True)
    entries: Any = (FileMetadata(path, size, updated) for path, (size, updated) in found)
    return FileSystems.get_filesystem(pattern).match_files(entries, pattern)


def remove(paths: Sequence[str]) -> None:
    """Removes objects; those that are not there are no error.

    Raises:
        OSError: the service refuses to remove one.
    """
    _in_batches(lambda batch: _client().delete_batch(batch), paths)


def move(sources: Sequence[str], destinations: Sequence[str]) -> None:
    """Moves objects within the service, in the place of those that are there.

    Raises:
        OSError: the service refuses to copy or to remove one.
    """
    _in_batches(lambda batch: _client().copy_batch(batch), list(zip(sources, destinations, strict=True)))
    remove(sources)


def _in_batches(call: Callable[[list], list[tuple]], items: Sequence) -> None:
    """Calls a function of Beam's, whose tuples end with an HTTP error or None, on some items at a time."""
    batches = [list(items[first : first + _BATCH]) for first in range(0, len(items), _BATCH)]
    with ThreadPoolExecutor(min(_THREADS, len(batches)) or 1) as pool:
        for outcome in pool.map(call, batches):
            for path, *_, status in outcome:
                if status is not None:
                    raise OSError(f"Google Cloud Storage answers {status} for {path}.")


def _found(path: str, function: Callable[[], Any]) -> Any:
    from google.cloud.exceptions import NotFound

    try:
        return function()
    except NotFound as error:
        raise FileNotFoundError(f"No such object: {path}.") from error


def _blob(path: str) -> Any:
    from apache_beam.io.gcp.gcsio import parse_gcs_path

    bucket, name = parse_gcs_path(path)
    return _client().client.bucket(bucket).blob(name)


def _client() -> Any:
    """Beam's client with the options of the pipeline, kept while these are the same; one a thread."""
    from apache_beam.io.gcp.gcsio import GcsIO

    options = compat.file_system_options()
    made_for = os.environ.get("STORAGE_EMULATOR_HOST"), options
    if getattr(_kept, "made_for", None) != made_for:
        _kept.made_for, _kept.client = made_for, GcsIO(pipeline_options=options)
    return _kept.client
