"""The one place that opens paths: local ones, and every scheme that Beam knows (`gs://`, `s3://`, `hdfs://`).

Local files go through the operating system; Apache Beam is imported for remote paths only, so that small
programs start quickly. Nothing here imports TensorFlow.

A write is atomic: the file appears whole under its name or not at all. Locally that takes a temporary
neighbor and `os.replace`; an object store creates an object only when its upload is complete.
"""

import contextlib
import errno
import glob
import io
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, BinaryIO

from wsss.common import compat, google_storage
from wsss.common.errors import UserError

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]*://")
Path = str | os.PathLike[str]  # of a local file, or `gs://…`
_UNFINISHED = ".unfinished"
_PAUSES = (0.1, 1.0)  # seconds before a local file is tried again; remote ones are by their clients
_TRANSIENT = {
    *(errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT),
    *(errno.ECONNRESET, errno.ECONNABORTED, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH),
}


def is_remote(path: Path) -> bool:
    """Whether `path` names a scheme (`gs://bucket/…`) rather than a local file."""
    return _SCHEME.match(os.fspath(path)) is not None


def join(base: Path, *parts) -> str:
    """Joins path parts with the separator of `base`'s file system."""
    base = os.fspath(base)
    if not is_remote(base):
        return os.path.join(base, *parts)
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def escape(path: Path) -> str:
    """`path` with the characters that `list_files` takes for a pattern quoted."""
    path = os.fspath(path)
    scheme = _SCHEME.match(path)
    start = scheme.end() if scheme else 0
    return path[:start] + glob.escape(path[start:])


def exists(path: Path) -> bool:
    """Whether there is a file or a folder at `path`."""
    path = os.fspath(path)
    if _is_google(path):
        return google_storage.exists(path)
    return _filesystems().exists(path) if is_remote(path) else os.path.exists(path)


def size(path: Path) -> int:
    """Number of bytes of a file.

    Raises:
        OSError: there is no such file.
    """
    path = os.fspath(path)
    if _is_google(path):
        return google_storage.size(path)
    return _filesystems().get_filesystem(path).size(path) if is_remote(path) else os.path.getsize(path)


def list_files(pattern: Path) -> list[str]:
    """The files (not folders) that match a glob pattern, sorted by name; `**` spans folders.

    Names that begin with a dot are not matched by `*`, so that unfinished writes never are.
    """
    pattern = os.fspath(pattern)
    if is_remote(pattern):
        return sorted(entry.path for entry in _matches(pattern) if not entry.path.endswith("/"))
    return sorted(path for path in glob.iglob(pattern, recursive=True) if os.path.isfile(path))


def stream_versions(pattern: str) -> Iterator[tuple[str, str]]:
    """Yields path, and size with time, of each remote file that matches a glob pattern: by listing alone."""
    for entry in _matches(os.fspath(pattern)):
        if not entry.path.endswith("/"):
            yield entry.path, f"{entry.size_in_bytes:x}-{entry.last_updated_in_seconds or 0}"


def _matches(pattern):
    """Yields the `FileMetadata` of each remote file that a glob pattern matches."""
    return google_storage.list_objects(pattern) if _is_google(pattern) else compat.stream_matches(pattern)


def remove(path: Path) -> None:
    """Removes a file; one that is not there is no error."""
    path = os.fspath(path)
    if is_remote(path):
        remove_files([path])
        return
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def remove_files(paths: Iterable[Path]) -> None:
    """Removes files of one file system, many in one call; those that are not there are no error."""
    names = [os.fspath(path) for path in paths]
    if names and _is_google(names[0]):
        google_storage.remove(names)
        return
    if names and is_remote(names[0]):
        _filesystems().delete([escape(name) for name in names])
        return
    for name in names:
        remove(name)


def remove_tree(path: Path) -> None:
    """Removes a folder and all that is in it; one that is not there is no error."""
    path = os.fspath(path)
    if is_remote(path):
        remove_files(list_files(join(escape(path), "**")))
    elif os.path.isdir(path):
        shutil.rmtree(path)


def open_read(path: Path) -> BinaryIO:
    """Opens a file for reading as a binary stream, never decompressed; use it as a context manager.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = os.fspath(path)
    if not is_remote(path):
        return io.BufferedReader(_RetryingFile(path), 1 << 17)
    if _is_google(path):
        return google_storage.open_read(path)
    filesystems = _filesystems()
    if not filesystems.exists(path):
        raise FileNotFoundError(f"No such object: {path}.")
    return filesystems.open(path, compression_type=_uncompressed())


@contextlib.contextmanager
def open_write(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for writing as a binary stream that appears under its name when the block succeeds.

    Locally, missing folders are made. When the block raises, nothing is left, neither under `path` nor beside
    it. A remote object is first collected here (in memory, beyond 64 MB on disk) and sent when complete:
    a store's own stream would publish the half of it that was written before an error.
    """
    path = os.fspath(path)
    if is_remote(path):
        with tempfile.SpooledTemporaryFile(max_size=64 << 20) as stream:
            yield stream
            if _is_google(path):
                google_storage.write(path, stream)
                return
            stream.seek(0)
            with _filesystems().create(path, compression_type=_uncompressed()) as remote:
                shutil.copyfileobj(stream, remote, 1 << 20)
        return
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    temporary = os.path.join(folder, f".{_shortened(name)}.{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        with open(temporary, "xb") as stream:
            yield stream
        os.replace(temporary, path)
    except BaseException as error:
        remove(temporary)
        if isinstance(error, OSError) and error.errno and error.filename in (None, temporary):
            error.filename = path  # a write that fails, of a full disk say, does not name the file
        raise


def is_unfinished(path: Path) -> bool:
    """Whether a path is that of a temporary file of `open_write`."""
    return os.fspath(path).endswith(_UNFINISHED)


def _shortened(name):
    """The beginning of a file name, 150 bytes at most, so that it can be extended."""
    return os.fsdecode(os.fsencode(name)[:150])


def remove_unfinished(folder: Path, name: str | None = None, *, below: bool = False) -> None:
    """Removes the temporary files that a killed process left in a local folder.

    To be called only while nothing else writes there.

    Args:
        folder: path of the folder.
        name: of the only file whose temporary ones are removed; None: those of all files.
        below: whether those in its sub-folders are removed too.
    """
    if not is_remote(folder):
        stem = "*" if name is None else f"{glob.escape(_shortened(name))}.{'[0-9a-f]' * 32}"
        parts = ("**", f".{stem}{_UNFINISHED}") if below else (f".{stem}{_UNFINISHED}",)
        for path in glob.glob(os.path.join(glob.escape(os.fspath(folder)), *parts), recursive=below):
            remove(path)


def read_bytes(path: Path) -> bytes:
    """The content of a file."""
    path = os.fspath(path)
    if _is_google(path):
        return google_storage.read(path)
    with open_read(path) as stream:
        return stream.read()


def read_text(path: Path) -> str:
    """The content of a UTF-8 file; a byte order mark is dropped.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file holds bytes that are no UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"byte {error.start} is {error.object[error.start]:#04x}"
        raise UserError(f"{path} must be UTF-8 text. Save it as such. Received: {place}.") from error


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file holds no JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # also of bytes that are no text
        raise UserError(f"{path} must hold JSON. Write it anew or remove it. Received: {error}.") from error


def read_object(path: Path) -> dict[str, Any]:
    """The dict in a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object. Write it anew or remove it.")
    return value


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically; missing local folders are made."""

    def write():
        with open_write(path) as stream:
            stream.write(data)

    _retried(write)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file atomically, line ends as given; half a character of JSON is escaped again."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically: sorted keys, indented by two, a newline at the end."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def copy(source: Path, destination: Path) -> None:
    """Copies one file, between any two file systems; the copy appears atomically."""

    def copy_once():
        with open_read(source) as reader, open_write(destination) as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)

    _retried(copy_once)


def move_files(sources: Sequence[Path], destinations: Sequence[Path]) -> None:
    """Moves files within a file system, in the place of those that are there; local folders are made."""
    sources, destinations = ([os.fspath(path) for path in paths] for paths in (sources, destinations))
    if sources and _is_google(sources[0]):
        google_storage.move(sources, destinations)
        return
    if sources and is_remote(sources[0]):
        _filesystems().rename(sources, destinations)
        return
    for source, destination in zip(sources, destinations, strict=True):
        os.makedirs(os.path.dirname(destination) or ".", exist_ok=True)
        os.replace(source, destination)


class _RetryingFile(io.RawIOBase):
    """A local file for reading that is opened again, at the same place, after a transient error."""

    def __init__(self, path):
        super().__init__()
        self.name = path
        self._file = _retried(lambda: io.FileIO(path))
        self._position = 0

    def readable(self):
        return True

    def seekable(self):
        return self._file.seekable()

    def seek(self, offset, whence=io.SEEK_SET):
        self._position = self._file.seek(offset, whence)
        return self._position

    def fileno(self):
        return self._file.fileno()

    def readinto(self, buffer):
        count = _retried(lambda: self._file.readinto(buffer), self._reopen)
        self._position += count
        return count

    def close(self):
        if not self.closed:
            self._file.close()
        super().close()

    def _reopen(self):
        failed, self._file = self._file, io.FileIO(self.name)
        failed.close()
        if self._position:
            self._file.seek(self._position)


def _retried(function, recover=lambda: None):
    """Calls a function, and again after each of `_PAUSES` while it fails for what may pass."""
    for pause in _PAUSES:
        try:
            return function()
        except OSError as error:
            if error.errno not in _TRANSIENT and not isinstance(error, TimeoutError):
                raise
        time.sleep(pause)
        with contextlib.suppress(OSError):
            recover()
    return function()


def _is_google(path):
    return os.fspath(path).startswith(google_storage.PREFIX)


def _filesystems():
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def _uncompressed():
    from apache_beam.io.filesystem import CompressionTypes

    return CompressionTypes.UNCOMPRESSED
