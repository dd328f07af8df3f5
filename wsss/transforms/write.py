"""Writing pseudo labels: files keyed by image id, and a manifest last that says that a shard is done."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import quote

import apache_beam as beam
import numpy as np

from wsss import files
from wsss.data.images import decode_image, encode_mask, voc_palette
from wsss.data.records import format_example
from wsss.data.tfrecord import write_records
from wsss.pictures import heat_map, overlay, side_by_side
from wsss.transforms import progress

MASKS, SCORES, PREVIEWS, MANIFESTS = "masks", "scores", "previews", "manifests"
TOP_FILES = (
    "options.json",
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
        return files.join(self.root, MASKS, f"{file_name(image_id)}.png")

    def scores(self, image_id):
        """`.npz` of `scores`, float16 `(classes, height, width)`, and `keys`, their 0-based classes."""
        return files.join(self.root, SCORES, f"{file_name(image_id)}.npz")

    def preview(self, image_id):
        """PNG: image, strongest score, mask and, where known, truth, side by side."""
        return files.join(self.root, PREVIEWS, f"{file_name(image_id)}.png")

    def manifest(self, shard):
        """What came of a shard; once it is there, the shard is done."""
        return files.join(self.root, MANIFESTS, f"{shard}.json")

    def path(self, name):
        """A file at the top."""
        return files.join(self.root, name)

    def read_manifests(self):
        """Dict of shard to its manifest, for all shards that are done."""
        paths = self._list(MANIFESTS, "*.json")
        with ThreadPoolExecutor(16) as pool:  # remote files take their time, not ours
            manifests = list(pool.map(files.read_json, paths))
        return {manifest["shard"]: manifest for manifest in manifests}

    def clear(self):
        """Removes what a former run wrote, the manifests first, and nothing else."""
        for pattern in (
            (MANIFESTS, "*.json"),
            *((name,) for name in (*TOP_FILES, "*.tfrecord-*-of-*", "*.labels.txt")),
            *((folder, "**") for folder in (MASKS, SCORES, PREVIEWS)),
        ):
            for path in self._list(*pattern):
                files.remove(path)

    def remove_unfinished(self):
        """Removes the temporary files that a killed run left in a local folder."""
        if not files.is_remote(self.root):
            for folder, _, _ in os.walk(self.root):
                files.remove_unfinished(folder)

    def _list(self, *pattern):
        return tuple(files.list_files(files.join(files.escape(self.root), *pattern)))


def file_name(image_id):
    """A relative path for an image id: `/` makes folders, what file systems treat specially is quoted.

    Different ids give different names.
    """
    parts = [quote(part, safe=" !$&'()+,;=@^~{}") for part in image_id.split("/")]
    return "/".join("%2E" + part[1:] if part.startswith(".") else part or "%2F" for part in parts)


class WriteImages(beam.PTransform):
    """Writes the mask of each `(Scored, Tally)`, and on request scores and picture; passes the pair on.

    A file that cannot be written stops the job: that is nothing about the image.

    Args:
        layout: the `Layout`.
        masks: whether masks are written as single PNGs.
        scores: whether scores are written.
    """

    def __init__(self, layout, *, masks=True, scores=False):
        super().__init__()
        self._layout, self._masks, self._scores = layout, masks, scores

    def expand(self, counted):
        return counted | beam.Map(_write_image, self._layout, self._masks, self._scores)


class WriteRecords(beam.PTransform):
    """Writes one TFRecord file a shard, with the pseudo label in the place of the true mask.

    Together with TFDS's metadata the files are a collection like the one that was read: a segmentation
    network trains on it as on any other. Takes `(shards, pairs of Scored and Tally)`, gives `(shard, facts)`.

    Args:
        layout: the `Layout`.
        file_names: dict of the shard's name to the name of the file.
    """

    def __init__(self, layout, file_names):
        super().__init__()
        self._layout, self._file_names = layout, file_names

    def expand(self, inputs):
        shards, counted = inputs
        members = (
            shards | "OpenFile" >> beam.Map(lambda shard: (shard.name, None)),  # a shard may end up empty
            counted | "FormatRecord" >> beam.Map(_format),
        )
        return (
            members
            | beam.Flatten()
            | "GroupByShard" >> beam.GroupByKey()
            | "WriteFile" >> beam.Map(_write_file, self._layout, self._file_names)
        )


def encode_scores(scores, keys):
    """Bytes of an `.npz` with `scores` as float16 and `keys`; equal arrays give equal bytes."""
    stream = io.BytesIO()
    np.savez_compressed(stream, scores=scores.astype(np.float16), keys=np.asarray(keys, np.int32))
    return stream.getvalue()


def decode_scores(data):
    """`(scores, keys)` from `encode_scores`: float32 `(classes, height, width)` and int `(classes,)`."""
    with np.load(io.BytesIO(data)) as arrays:
        return arrays["scores"].astype(np.float32), arrays["keys"]


def _write_image(counted, layout, masks, scores):
    scored = counted[0]
    image_id = scored.item.record.image_id
    if masks:
        files.write_bytes(layout.mask(image_id), encode_mask(scored.mask, voc_palette()))
    if scores:
        files.write_bytes(layout.scores(image_id), encode_scores(scored.scores, scored.keys))
    if scored.item.preview:
        files.write_bytes(layout.preview(image_id), _preview(scored))
    progress.tick()
    return counted


def _preview(scored):
    record = scored.item.record
    image = decode_image(record.image_bytes, record.orientation)
    strongest = scored.scores.max(axis=0) if len(scored.keys) else np.zeros(image.shape[:2], np.float32)
    pictures = [image, heat_map(image, strongest), overlay(image, scored.mask)]
    if record.mask is not None:
        pictures.append(overlay(image, record.mask))
    return side_by_side(pictures)


def _format(counted):
    scored = counted[0]
    record = replace(scored.item.record, labels=scored.keys, mask_bytes=encode_mask(scored.mask))
    return scored.item.shard, (record.image_id, format_example(record))


def _write_file(shard_and_members, layout, file_names):
    shard, members = shard_and_members
    path = files.join(layout.root, file_names[shard])
    records = sorted(member for member in members if member is not None)
    count, size = write_records(path, [serialized for _, serialized in records])
    return shard, {"count": count, "bytes": size}
