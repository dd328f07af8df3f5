"""Manifests: the record of a finished shard, by which another run skips it."""

from collections.abc import Iterator, Sequence
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

    The file also holds the `ImageRow` of each image, see `read_rows`: those are not kept here, since all
    manifests of a job are held in memory together.

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
    value = io.read_json(path)
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


def read_manifests(layout: Layout) -> dict[str, Manifest]:
    """The manifests of all finished shards, by the shard's name.

    Raises:
        UserError: a manifest is damaged.
    """

    def read(path: str) -> Manifest:
        return Manifest.from_json(io.read_json(path), path)

    with ThreadPoolExecutor(16) as pool:  # remote files take their time, not ours
        manifests = list(pool.map(read, layout.manifest_paths()))
    return {manifest.shard: manifest for manifest in manifests}


def written_files(folder: str) -> list[str] | None:
    """Names of all files of finished labels, or None where the labels in a folder are not finished.

    They are when `summary.json`, written last, counts as many images as the manifests name. A mask beside
    those, of an image that could not be labeled, say, is the user's.
    """
    layout, names = Layout(folder), Layout("")
    try:
        manifests = read_manifests(layout)
        summary = Fields(io.read_json(layout.path("summary.json")), layout.path("summary.json"), "")
        labeled = summary.object("images").get("labelled", int)
    except (FileNotFoundError, UserError):
        return None
    image_ids = [image_id for manifest in manifests.values() for image_id in manifest.image_ids]
    if len(image_ids) != labeled or io.exists(layout.path("retired.json")):
        return None
    as_records = [manifest.records.name for manifest in manifests.values() if manifest.records]
    pictures = (names.scores, names.preview) if as_records else (names.mask, names.scores, names.preview)
    return [
        *(pattern for pattern in OWNED if "*" not in pattern),
        *("labels.labels.txt", *map(names.manifest, manifests), *as_records),
        *(picture(image_id) for image_id in image_ids for picture in pictures),
    ]
