"""The folder of pseudo labels: what lies where, how an id becomes a file name, how scores are stored."""

import hashlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from urllib.parse import unquote

import numpy as np

from wsss.common import io

_SPECIAL = re.compile(r'[%\\:*?"<>|\[\]\x00-\x1f\x7f\ud800-\udfff]')
_OUTPUT_SUFFIX = re.compile(r"\.(png|npz)$", re.IGNORECASE)
_LONGEST_PART, _LONGEST_NAME, _HASHED = 200, 800, "%~"  # bytes; file systems allow 255 and 4096, gs:// 1024
MASKS, SCORES, PREVIEWS, MANIFESTS = "masks", "scores", "previews", "manifests"
TOP_FILES = (
    "options.json",
    "threshold.json",
    "errors.jsonl",
    "summary.json",
    "metrics.json",
    "report.html",
    "dataset_info.json",
    "features.json",
)


@dataclass(frozen=True)
class Layout:
    """Where in an output folder lies what.

    Attributes:
        root: the output folder, local or remote.
    """

    root: str

    def mask(self, image_id):
        """Palette PNG: 0 background, 1..K class."""
        return io.join(self.root, MASKS, f"{file_name(image_id)}.png")

    def scores(self, image_id):
        """`.npz` of `scores`, float16 `(classes, height, width)`, and `keys`, their 0-based class ids."""
        return io.join(self.root, SCORES, f"{file_name(image_id)}.npz")

    def preview(self, image_id):
        """PNG: image, strongest score, mask and, where known, truth, side by side."""
        return io.join(self.root, PREVIEWS, f"{file_name(image_id)}.png")

    def manifest(self, shard):
        """What came of a shard; once it is there, the shard is done."""
        return io.join(self.root, MANIFESTS, f"{shard}.json")

    def path(self, name):
        """A file at the top."""
        return io.join(self.root, name)

    def read_manifests(self):
        """Dict of shard to its manifest, for all shards that are done."""
        paths = self._list(MANIFESTS, "*.json")
        with ThreadPoolExecutor(16) as pool:  # remote files take their time, not ours
            manifests = list(pool.map(io.read_json, paths))
        return {manifest["shard"]: manifest for manifest in manifests}

    def clear(self):
        """Removes what a former run wrote, the manifests first, and nothing else."""
        for pattern in (
            (MANIFESTS, "*.json"),
            *((name,) for name in (*TOP_FILES, "*.tfrecord-*-of-*", "*.labels.txt")),
            *((folder, "**") for folder in (MASKS, SCORES, PREVIEWS)),
        ):
            for path in self._list(*pattern):
                io.remove(path)

    def remove_unfinished(self):
        """Removes the temporary files that a killed run left in a local folder."""
        if not io.is_remote(self.root):
            for folder, _, _ in os.walk(self.root):
                io.remove_unfinished(folder)

    def _list(self, *pattern):
        return tuple(io.list_files(io.join(io.escape(self.root), *pattern)))


def file_name(image_id: str) -> str:
    """A relative path for an image id: `/` makes folders, what file systems treat specially is quoted.

    Different ids give different names, and `image_id_of` undoes it. A part that is too long for a file system
    is cut and gets a hash of the whole, which cannot be undone.
    """
    *folders, last = map(_quote, image_id.split("/"))
    folders = [_OUTPUT_SUFFIX.sub(r"%2E\1", folder) for folder in folders]  # image `a` has the file `a.png`
    parts = [_bound(part) for part in (*folders, last)]
    if len("/".join(parts).encode()) > _LONGEST_NAME:
        return _bound(_quote(image_id).replace("/", "%2F"), longest=0)
    return "/".join(parts)


def image_id_of(name: str) -> str:
    """The image id that `file_name` gave this name; a part that was cut stays as it is."""
    return "/".join("" if part == "%2F" else _unquote(part) for part in name.split("/"))


def _quote(part):
    quoted = _SPECIAL.sub(lambda found: "".join(f"%{byte:02X}" for byte in _encode(found[0])), part)
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted or "%2F"


def _unquote(part):
    return part if _HASHED in part else unquote(part, errors="surrogateescape")


def _bound(part, longest=_LONGEST_PART):
    """A quoted part of at most 200 bytes: a longer one is cut, and a hash of it appended."""
    data = part.encode()
    if len(data) <= longest:
        return part
    kept = re.sub("%[0-9A-F]?$", "", data[:160].decode(errors="ignore"))
    return f"{kept}{_HASHED}{hashlib.sha256(data).hexdigest()[:16]}"


def _encode(character):
    try:
        return character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return character.encode("utf-8", "surrogatepass")


def encode_scores(scores: np.ndarray, class_ids: Sequence[int]) -> bytes:
    """Bytes of an `.npz` with `scores` as float16 and `keys`, the class ids; equal arrays give equal bytes.

    On disk the class ids are called `keys`, as in version 0.1.0: readers that
    users wrote for these files go on working.
    """
    stream = BytesIO()
    np.savez_compressed(stream, scores=scores.astype(np.float16), keys=np.asarray(class_ids, np.int32))
    return stream.getvalue()


def decode_scores(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """`(scores, class_ids)` from `encode_scores`: float32 `(classes, height, width)` and int `(classes,)`."""
    with np.load(BytesIO(data)) as arrays:
        return arrays["scores"].astype(np.float32), arrays["keys"]
