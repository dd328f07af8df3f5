"""Manifests: the record of a finished shard, by which another run skips it."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from wsss.common import io
from wsss.common.errors import UserError
from wsss.common.schema import Fields
from wsss.pipeline.output import OWNED, Layout
from wsss.pipeline.stages.describe import ImageRow
from wsss.pipeline.stages.pictures import Candidates, Picture
from wsss.pipeline.stages.score import Tally

_REMEDY = "Remove it: its shard is then labeled again."
_THREADS, _AT_A_TIME = 16, 32  # manifests that are read together


@dataclass(frozen=True)
class RecordFile:
    """A TFRecord file of pseudo labels.

    Attributes:
        count: number of records in it.
        bytes: size of the records.
        name: of the file; empty in manifests of version 0.1.0.
    """

    count: int
    bytes: int
    name: str = ""


@dataclass(frozen=True)
class Manifest:
    """What is known about a finished shard.

    The file also holds the `ImageRow` of each image and some pictures, see `read_rows` and `read_pictures`.

    Attributes:
        shard: its name.
        source: fingerprint of its content.
        tally: counts over its images, failures included.
        image_ids: the images with a mask, sorted; empty in manifests of version 0.1.0.
        records: of TFRecord output.
        scores: whether there are score files of its images, as `ImageScores` reads them.
    """

    shard: str
    source: str
    tally: Tally
    image_ids: tuple[str, ...] = ()
    records: RecordFile | None = None
    scores: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values, see `from_json`."""
        value: dict[str, Any] = {
            "shard": self.shard,
            "source": self.source,
            "image_ids": list(self.image_ids),
            "tally": self.tally.state(),
        }
        if self.records is not None:
            value["records"] = asdict(self.records)
        return {**value, "scores": True} if self.scores else value

    @classmethod
    def from_json(cls, value: Any, path: str) -> "Manifest":
        """From parsed JSON.

        Raises:
            UserError: a field is missing or malformed.
        """
        fields = Fields(value, path, _REMEDY)
        records = None
        if fields.get("records", dict, None) is not None:
            parts = fields.object("records")
            records = RecordFile(parts.get("count", int), parts.get("bytes", int), parts.get("name", str, ""))
        try:
            tally = Tally.from_state(fields.get("tally", dict))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise fields.error(f"`tally` must hold the counts of a shard ({error})") from error
        return cls(
            fields.get("shard", str),
            fields.get("source", str),
            tally,
            fields.texts("image_ids", ()),
            records,
            fields.get("scores", bool, False),
        )


def write_manifest(
    layout: Layout, manifest: Manifest, rows: Sequence[ImageRow], candidates: Candidates | None = None
) -> None:
    """Writes a manifest, the rows of the shard's masks, and pictures; the failures get rows of their own."""
    failed = [ImageRow(failure.image_id, flags=("failed",)) for failure in manifest.tally.failures]
    pictures, why = {}, {}
    for image_id, why[image_id], picture in (candidates or Candidates()).pictures():
        pictures[image_id] = picture.to_json()
    rows = [replace(row, picture=why.get(row.image_id)) for row in rows]
    value = {**manifest.to_json(), "rows": _rows_to_json([*rows, *failed])}
    if pictures:
        value["pictures"] = pictures
    io.write_json(layout.manifest(manifest.shard), value)


def _rows_to_json(rows: Sequence[ImageRow]) -> list[dict[str, Any]]:
    return [row.to_json() for row in sorted(rows, key=lambda row: row.image_id)]


def read_rows(path: str) -> Iterator[ImageRow]:
    """Yields the row of each image of a shard, failed ones included, by ascending id.

    Of manifests of version 0.1.0 no more than the ids is known.

    Args:
        path: of the shard's manifest.

    Raises:
        UserError: the manifest is damaged.
    """
    yield from _rows_of(io.read_json(path), path)


def _rows_of(value, path):
    rows = Fields(value, path, _REMEDY).get("rows", list, None)
    if rows is not None:
        yield from (ImageRow.from_json(row, path) for row in rows)
        return
    manifest = Manifest.from_json(value, path)
    ids = [*manifest.image_ids, *(failure.image_id for failure in manifest.tally.failures)]
    yield from map(ImageRow, sorted(ids))


def read_pictures(path: str) -> dict[str, Picture]:
    """The pictures that a shard keeps for the report, by the image's id.

    Args:
        path: of the shard's manifest.

    Raises:
        UserError: the manifest is damaged.
    """
    pictures = Fields(io.read_json(path), path, _REMEDY).get("pictures", dict, {})
    return {image_id: Picture.from_json(value, path) for image_id, value in pictures.items()}


def stream_manifests(layout: Layout, shards: Iterable[str] | None = None) -> Iterator[Manifest]:
    """Yields manifests, of which a few are in memory at a time: all together would take gigabytes.

    Args:
        layout: the output's `Layout`.
        shards: names of finished shards, in order; None takes all that are finished.

    Raises:
        UserError: a manifest is damaged.
    """
    paths = layout.manifest_paths() if shards is None else map(layout.manifest, shards)
    for path, value in read_ahead(io.read_json, paths):
        yield Manifest.from_json(value, path)


def stream_rows(layout: Layout, shards: Iterable[str]) -> Iterator[tuple[str, ImageRow]]:
    """Yields the name of its shard and the row of each image, failed ones included, shard by shard.

    Args:
        layout: the output's `Layout`.
        shards: names of finished shards, in order.

    Raises:
        UserError: a manifest is damaged.
    """
    names, paths = itertools.tee(shards)
    contents = read_ahead(io.read_json, map(layout.manifest, paths))
    for shard, (path, value) in zip(names, contents, strict=True):
        for row in _rows_of(value, path):
            yield shard, row


def read_ahead(read: Callable[[str], Any], paths: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yields each path with what a function reads there, in order; 32 at a time in threads and in memory."""
    paths = iter(paths)
    with ThreadPoolExecutor(_THREADS) as pool:  # remote files take their time, not ours
        while some := list(itertools.islice(paths, _AT_A_TIME)):
            yield from zip(some, pool.map(read, some), strict=True)


def read_manifests(layout: Layout) -> dict[str, Manifest]:
    """The manifests of all finished shards, by the shard's name; without counts, which take much memory.

    Of a tally the failures are left; `stream_manifests` gives all of it.

    Raises:
        UserError: a manifest is damaged.
    """
    return {each.shard: without_counts(each) for each in stream_manifests(layout)}


def without_counts(manifest: Manifest) -> Manifest:
    """A manifest that is kept in memory: of its tally the failures are left."""
    return replace(manifest, tally=Tally(failures=manifest.tally.failures))


def written_files(folder: str) -> list[str] | None:
    """Names of all files of finished labels, or None where the labels in a folder are not finished.

    They are when `summary.json`, written last, counts as many images as the manifests name. A mask beside
    those, of an image that could not be labeled, say, is the user's.
    """
    layout, names = Layout(folder), Layout("")
    shards: list[str] = []
    as_records: list[str] = []
    image_ids: list[str] = []
    try:
        for manifest in stream_manifests(layout):
            shards.append(manifest.shard)
            image_ids.extend(manifest.image_ids)
            if manifest.records is not None:
                as_records.append(manifest.records.name)
        summary = Fields(io.read_json(layout.path("summary.json")), layout.path("summary.json"), "")
        labeled = summary.object("images").get("labelled", int)
    except (FileNotFoundError, UserError):
        return None
    if len(image_ids) != labeled or io.exists(layout.path("retired.json")):
        return None
    pictures = (names.scores, names.preview) if as_records else (names.mask, names.scores, names.preview)
    return [
        *(pattern for pattern in OWNED if "*" not in pattern),
        *("labels.labels.txt", *map(names.manifest, shards), *as_records),
        *(picture(image_id) for image_id in image_ids for picture in pictures),
    ]
