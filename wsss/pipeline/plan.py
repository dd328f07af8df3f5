"""Planning: shards without a current manifest are labeled, outputs without an image are removed."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wsss.common import io
from wsss.common.schema import Fields
from wsss.data.dataset import shard_name
from wsss.pipeline.output import RESULTS, Layout
from wsss.pipeline.stages.manifest import Manifest, stream_manifests, without_counts
from wsss.pipeline.stages.read import ImageShards, InputShard


@dataclass(frozen=True)
class Plan:
    """The work of a job.

    Attributes:
        todo: shards to be labeled, in order.
        finished: number of shards that are labeled already.
    """

    todo: tuple[InputShard, ...]
    finished: int


@dataclass(frozen=True)
class Retired:
    """The content of `retired.json`: outputs of shards that changed or are gone, to be removed at the end.

    Attributes:
        image_ids: images with a mask then; those that have none now are removed.
        record_files: names of TFRecord files then.
    """

    image_ids: tuple[str, ...] = ()
    record_files: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: Any, path: str) -> "Retired":
        """From parsed JSON.

        Raises:
            UserError: a field is missing or malformed.
        """
        fields = Fields(value, path, "Remove it, or pass `--overwrite`.")
        files = fields.texts("record_files")
        if any("/" in name or "\\" in name for name in files):
            raise fields.error("`record_files` must be names of files in this folder")
        return cls(fields.texts("image_ids"), files)


def plan_job(shards: Sequence[InputShard], layout: Layout) -> Plan:
    """Compares shards with the manifests; those that changed, failed for a passing reason, or whose
    outputs were lost are done again.

    Manifests of shards that changed or are gone are removed, and what they stood for is remembered for
    `remove_retired`.
    """
    known = {shard.name: shard for shard in shards}
    finished, outdated = set(), []
    for manifest in stream_manifests(layout):
        if (
            manifest.shard in known
            and _is_current(manifest, known[manifest.shard])
            and _is_whole(manifest, layout)
        ):
            finished.add(manifest.shard)
        else:
            outdated.append(without_counts(manifest))
    if outdated:
        _retire(layout, outdated)
    if outdated or len(finished) < len(shards):  # they are about other labels than there are to be
        for name in RESULTS:
            io.remove(layout.path(name))
    if not finished:  # choices that no mask was made with
        for name in ("threshold.json", "refinement.json"):
            io.remove(layout.path(name))
    return Plan(tuple(shard for shard in shards if shard.name not in finished), len(finished))


def remove_retired(layout: Layout, manifests: Iterable[Manifest]) -> None:
    """Removes masks, scores, pictures and records that stand for no image of these manifests any more."""
    path = layout.path("retired.json")
    if not io.exists(path):
        return
    retired = Retired.from_json(io.read_json(path), path)
    ids, files = set(retired.image_ids), set(retired.record_files)
    for manifest in manifests:
        ids.difference_update(manifest.image_ids)
        if manifest.records is not None:
            files.discard(manifest.records.name)
    for image_id in sorted(ids):
        for output in (layout.mask, layout.scores, layout.preview):
            _remove(layout, output(image_id))
    for name in sorted(files):
        _remove(layout, layout.path(name))
    io.remove(path)


def _remove(layout, path):
    if path not in layout.kept:
        io.remove(path)


def waves(shards: Iterable[InputShard], images: float) -> Iterator[list[InputShard]]:
    """Groups of shards with at least so many images, each the work of one pipeline."""
    wave: list[InputShard] = []
    count = 0
    for shard in shards:
        wave.append(shard)
        count += shard.images
        if count >= images:
            yield wave
            wave, count = [], 0
    if wave:
        yield wave


def record_files(images: ImageShards, split: str) -> dict[str, str]:
    """Name of each shard's TFRecord file."""
    shards = images.shards
    return {
        shard.name: shard_name(images.name, split, index, len(shards)) for index, shard in enumerate(shards)
    }


def _is_current(manifest: Manifest, shard: InputShard) -> bool:
    transient = any(failure.transient for failure in manifest.tally.failures)
    return manifest.source == shard.source and not transient


def _is_whole(manifest: Manifest, layout: Layout) -> bool:
    """Whether the outputs are there still and not empty; on `gs://` that would be a request for each."""
    if io.is_remote(layout.root):
        return True
    if manifest.records is None:
        paths = [layout.mask(image_id) for image_id in manifest.image_ids]
    else:  # version 0.1.0 did not say which; a file without a record is empty
        has_file = manifest.records.name and manifest.records.count
        paths = [layout.path(manifest.records.name)] if has_file else []
    if manifest.scores:
        paths += [layout.scores(image_id) for image_id in manifest.image_ids]
    return all(os.path.isfile(path) and os.path.getsize(path) for path in paths)


def _retire(layout: Layout, outdated: Sequence[Manifest]) -> None:
    path = layout.path("retired.json")
    retired = Retired.from_json(io.read_json(path), path) if io.exists(path) else Retired()
    ids, files = set(retired.image_ids), set(retired.record_files)
    for manifest in outdated:
        ids.update(manifest.image_ids)
        if manifest.records is not None and manifest.records.name:
            files.add(manifest.records.name)
    io.write_json(path, {"image_ids": sorted(ids), "record_files": sorted(files)})
    for manifest in outdated:
        io.remove(layout.manifest(manifest.shard))
