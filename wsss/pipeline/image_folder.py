"""A plain folder of images as shards, listed in bounded memory.

The listing lies in a temporary file. Of an image the launcher keeps some numbers in memory, not its name:
a hash by which names that differ in their suffix are known, a shard, and a position in that file.
"""

import hashlib
import json
import logging
import os
import tempfile
import weakref
import zlib
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from wsss.common import fingerprint, io
from wsss.common.errors import UserError
from wsss.data.images import is_image
from wsss.data.sources.base import Problem
from wsss.data.sources.files import ListedFile, stem, stream_folder
from wsss.pipeline.output import MASKS, PREVIEWS, SCORES

_logger = logging.getLogger(__name__)
_THREADS = 16


class ImageFolder:
    """The images of a folder, each in the shard that the hash of its id says.

    Args:
        folder: local folder or `gs://…`.
        images_per_shard: how many images make a shard, about.
        leave_out: folders whose files are no images to be read, such as the output within the folder.

    Attributes:
        images: number of images.
        shards: number of shards.

    Raises:
        UserError: there is no image.
    """

    def __init__(self, folder: str, images_per_shard: int, leave_out: Sequence[str] = ()):
        self._is_remote = io.is_remote(folder)
        problems: list[Problem] = []
        found = stream_folder(folder, _result_folders(folder, leave_out), problems)
        self._write(file for file in found if is_image(file.name))
        for problem in problems:
            _logger.warning("%s: %s %s", problem.id, problem.detail, problem.remedy)
        if not self.images:
            raise UserError(f"{folder} holds neither a collection (no dataset_info.json) nor images.")
        self.shards = -(-self.images // images_per_shard)
        self._assign()

    def members(self, shard: int) -> list[tuple[int, str, ListedFile]]:
        """Position in the listing, id and file of each image of a shard, by name."""
        positions = self._order[self._starts[shard] : self._starts[shard + 1]].tolist()
        members = []
        for position in positions:
            file = self._read(position)
            members.append((position, self._image_id(position, file.name), file))
        return sorted(members, key=lambda member: member[2].name)

    def source(self, members: Sequence[tuple[int, str, ListedFile]]) -> str:
        """Fingerprint of the ids and contents of images; in a store size and time stand for a content."""
        if self._is_remote:
            contents = [file.version for _, _, file in members]
        else:
            contents = fingerprints([file.path for _, _, file in members])
        pairs = zip((image_id for _, image_id, _ in members), contents, strict=True)
        return fingerprint.combine(part for pair in pairs for part in pair)

    def _write(self, files: Iterable[ListedFile]) -> None:
        """Lists the files in the temporary file."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as this object lives
        weakref.finalize(self, self._file.close)
        self._offsets, stems = array("q", [0]), array("Q")
        for file in files:
            size = self._file.write(json.dumps(file).encode() + b"\n")
            self._offsets.append(self._offsets[-1] + size)
            stems.append(_hash(stem(file.name)))
        self._file.flush()
        self.images = len(stems)
        _, inverse, counts = np.unique(
            np.frombuffer(stems, np.uint64), return_inverse=True, return_counts=True
        )
        self._is_shared = counts[inverse] > 1  # whether another image differs in its suffix alone

    def _assign(self) -> None:
        """Orders the images by shard."""
        shard_of = np.empty(self.images, np.int32)
        for position in range(self.images):
            image_id = self._image_id(position, self._read(position).name)
            shard_of[position] = zlib.crc32(image_id.encode()) % self.shards
        self._order = np.argsort(shard_of, kind="stable")
        self._starts = np.searchsorted(shard_of[self._order], np.arange(self.shards + 1))

    def _read(self, position: int) -> ListedFile:
        start, stop = self._offsets[position], self._offsets[position + 1]
        return ListedFile(*json.loads(os.pread(self._file.fileno(), stop - start, start)))

    def _image_id(self, position: int, name: str) -> str:
        """The name without its suffix, unless another image differs in nothing else."""
        return name if self._is_shared[position] else stem(name)


def fingerprints(paths: Sequence[str]) -> list[str]:
    """Fingerprint of each file's content; one that cannot be read now has another when it can."""

    def of_file(path):
        try:
            return fingerprint.of_file(path)
        except OSError as error:
            return f"unreadable: {error.strerror}"

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(of_file, paths))


def _hash(text: str) -> int:
    """64 bits: among a million names two are equal by chance once in 37 million folders."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _result_folders(folder: str, outputs: Sequence[str]) -> tuple[str, ...]:
    """The folders within `folder` that results are written to: they hold no images to be read."""
    found: list[str] = []
    for output in outputs:
        if not io.is_remote(folder) and os.path.realpath(output) == os.path.realpath(folder):
            found.extend(io.join(folder, name) for name in (MASKS, SCORES, PREVIEWS))
        else:
            found.append(output)
    return tuple(found)
