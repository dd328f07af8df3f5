"""Making shards of a user's collection: plan, check, write.

The unit of work is an output shard. What belongs in it is written down beforehand as a JSON file, a plan, so
that the graph carries names only, and its result afterwards as another, so that the program can read it on
any runner. A shard is written by one call, atomically: a repeated one writes the same bytes again.
"""

import errno
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, count

import apache_beam as beam
import numpy as np

from wsss.common import io
from wsss.data.dataset import Collection, open_collection, shard_name
from wsss.data.images import BadImage
from wsss.data.records import format_example
from wsss.data.sources.base import ListedImage, Listing, Problem
from wsss.data.sources.folder import hash_fraction, make_record
from wsss.data.sources.mask_coding import MaskCoding
from wsss.data.tfrecord import read_records, write_records
from wsss.pipeline.execution import progress

_THREADS = 8
_CHUNK = 32  # images read ahead, which bounds memory
# A shard that is not asked for otherwise: large enough for a store, small enough to be read and done again.
_SHARD_IMAGES, _SHARD_BYTES = 500, 192 << 20  # at most, about
_SAMPLE = 512  # images of a split whose bytes are asked for
_PLAN, _RESULT = ".plan.json", ".result.json"


@dataclass
class ShardResult:
    """Counts and problems of one shard.

    Attributes:
        split: str.
        path: str, the shard's file.
        count: int, records in it.
        size: int, bytes in them.
        without_mask: int, records whose mask is 255 throughout.
        class_images: dict of class (as str, for JSON) to the number of records that it labels.
        class_pixels: dict of the mask's number (as str) to that of pixels.
        image_ids: list of str, the records' ids, of a shard that comes from another collection's.
        problems: list of `Problem`.
    """

    split: str
    path: str
    count: int = 0
    size: int = 0
    without_mask: int = 0
    class_images: Counter = field(default_factory=Counter)
    class_pixels: Counter = field(default_factory=Counter)
    image_ids: list = field(default_factory=list)
    problems: list = field(default_factory=list)


class WriteShards(beam.PTransform):
    """Paths of plans in; writes their shards, and the result of each beside its plan."""

    def expand(self, plans: beam.PCollection) -> beam.PCollection:
        return plans | beam.Reshuffle() | beam.Map(write_shard)


def plan_items(
    source: Listing,
    directory: str,
    name: str,
    shards: int | None,
    max_pixels: int,
    mask_coding: MaskCoding,
) -> list[str]:
    """Writes the plans of a listed collection.

    Args:
        source: `Listing`.
        directory: where the shards are to be.
        name: the collection's name.
        shards: int, shards in a split, or None for about 500 images, or 192 MiB of them, in each.
        max_pixels: int, the largest area of an image.
        mask_coding: `MaskCoding` of the masks' files.

    Returns:
        The plans' paths.
    """
    of_split: dict[str, list[ListedImage]] = {}
    for item in sorted(source.items, key=lambda item: (hash_fraction(item.image_id), item.image_id)):
        of_split.setdefault(item.split, []).append(item)
    paths = []
    for split, items in sorted(of_split.items()):
        count = min(shards or _shard_count(items), len(items))
        for shard, members in enumerate(np.array_split(np.arange(len(items)), count)):
            plan = {
                "split": split,
                "output": io.join(directory, shard_name(name, split, shard, count)),
                "classes": len(source.class_names),
                "has_masks": source.has_masks,
                "max_pixels": max_pixels,
                "mask_coding": mask_coding.to_json(),
                "items": [items[index] for index in members],
            }
            paths.append(_write_plan(directory, plan))
    return paths


def _shard_count(items: Sequence[ListedImage]) -> int:
    """Shards for a split, by the number of its images and by their bytes, as a sample of them suggests."""
    sample = [items[index] for index in range(0, len(items), -(-len(items) // _SAMPLE))]
    with ThreadPoolExecutor(_THREADS) as pool:
        size = sum(pool.map(_size, sample)) * len(items) // len(sample)
    of_images, of_bytes = -(-len(items) // _SHARD_IMAGES), -(-size // _SHARD_BYTES)
    return max(of_images, of_bytes, min(8, -(-len(items) // 32)))


def _size(item):
    """Bytes of an image's file; 0 where there is none, which is reported when it is read."""
    try:
        return io.size(item.image)
    except OSError:
        return 0


def plan_collection(
    collection: Collection, directory: str, name: str, max_pixels: int, mask_coding: MaskCoding
) -> list[str]:
    """Writes the plans of an opened (TFDS) collection, shard for shard; returns their paths."""
    paths = []
    for split in collection.shard_lengths:
        sources = collection.shard_paths(split)
        for shard, path in enumerate(sources):
            plan = {
                "split": split,
                "output": io.join(directory, shard_name(name, split, shard, len(sources))),
                "classes": len(collection.class_names),
                "has_masks": collection.has_masks,
                "max_pixels": max_pixels,
                "mask_coding": mask_coding.to_json(),
                "collection": collection.directory,
                "shard": path,
                "records": collection.shard_lengths[split][shard],
                "new_ids": {},
            }
            paths.append(_write_plan(directory, plan))
    return paths


def write_shard(plan_path: str) -> None:
    """Carries out one plan: reads and checks its images, writes the shard and the `ShardResult`."""
    plan = io.read_json(plan_path)
    result = ShardResult(plan["split"], plan["output"])
    found = _rename(_read_collection(plan), plan, result) if "collection" in plan else _read_items(plan)
    result.count, result.size = write_records(plan["output"], _count(found, result))
    io.write_json(plan_path.removesuffix(_PLAN) + _RESULT, vars(result))


def rename_duplicates(
    plan_paths: Sequence[str], results: Sequence[ShardResult]
) -> tuple[list[str], list[str]]:
    """Finds image ids that a split holds more than once, and plans new ones: `ID__2`, `ID__3` and so on.

    Args:
        plan_paths: the plans that were carried out.
        results: their `ShardResult`s.

    Returns:
        `(plans to carry out again, the images' old ids)`; both are empty where every id is unique.
    """
    taken: defaultdict[str, set[str]] = defaultdict(set)
    new_ids: defaultdict[str, dict] = defaultdict(dict)
    renamed = []
    for result in results:
        taken[result.split].update(result.image_ids)
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for path, result in zip(plan_paths, results):
        for position, image_id in enumerate(result.image_ids):
            seen[result.split][image_id] += 1
            if seen[result.split][image_id] > 1:
                numbers = count(seen[result.split][image_id])
                new_id = next(
                    name for name in (f"{image_id}__{n}" for n in numbers) if name not in taken[result.split]
                )
                taken[result.split].add(new_id)
                new_ids[path][str(position)] = new_id
                renamed.append(image_id)
    for path, names in new_ids.items():
        io.write_text(path, json.dumps({**io.read_json(path), "new_ids": names}))
    return list(new_ids), renamed


def read_results(plan_paths: Sequence[str]) -> list[ShardResult]:
    """The `ShardResult`s of plans that were carried out, in order."""
    with ThreadPoolExecutor(_THREADS) as pool:
        contents = pool.map(io.read_json, [path.removesuffix(_PLAN) + _RESULT for path in plan_paths])
        results = [ShardResult(**content) for content in contents]
    for result in results:
        result.problems = [Problem(*problem) for problem in result.problems]
        result.class_images, result.class_pixels = Counter(result.class_images), Counter(result.class_pixels)
    return results


def plans_folder(directory: str) -> str:
    """Where the plans of a collection in `directory` are while it is made."""
    return io.join(directory, ".plan")


def _write_plan(directory, plan):
    path = io.join(plans_folder(directory), plan["output"].rsplit("/", 1)[-1] + _PLAN)
    io.write_text(path, json.dumps(plan))  # in ASCII: paths may hold bytes that are no UTF-8
    return path


def _count(found, result):
    """Serializes the records among what was found, and keeps count of all."""
    for record in found:
        progress.tick()
        if isinstance(record, Problem):
            result.problems.append(record)
            continue
        result.class_images.update(str(label) for label in record.labels)
        if record.mask_bytes is not None:
            numbers, pixels = np.unique(record.mask, return_counts=True)
            result.class_pixels.update(dict(zip(map(str, numbers), map(int, pixels))))
            result.without_mask += numbers.tolist() == [255]
        yield format_example(record)


def _read_items(plan):
    items = [ListedImage(*item) for item in plan["items"]]
    with ThreadPoolExecutor(_THREADS) as pool:  # Pillow decodes outside of Python's lock
        for begin in range(0, len(items), _CHUNK):
            yield from pool.map(lambda item: _load(item, plan), items[begin : begin + _CHUNK])


def _load(item, plan):
    """The `Record` of an item, or the `Problem` why there is none."""
    mask_bytes = None
    try:
        stage, remedy = "image", "Add the file, or drop it from the list."
        image_bytes = io.read_bytes(item.image)
        if isinstance(item.mask, str):
            stage, remedy = "mask", "Add the file."
            mask_bytes = io.read_bytes(item.mask)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # nothing about this image
            raise
        reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        return Problem(item.image_id, stage, reason, f"No file can be read for the {stage}.", remedy)
    return _check(item, image_bytes, mask_bytes, plan)


def _check(item, image_bytes, mask_bytes, plan):
    try:
        return make_record(
            item,
            image_bytes,
            mask_bytes,
            classes=plan["classes"],
            has_masks=plan["has_masks"],
            max_pixels=plan["max_pixels"],
            mask_coding=MaskCoding(**plan["mask_coding"]),
        )
    except BadImage as error:
        stage = "mask" if error.reason.startswith("mask") else "image"
        return Problem(item.image_id, stage, error.reason, error.detail, error.remedy)


def _read_collection(plan):
    """Yields the `Record`s of a shard of another collection, and a `Problem` for each that is of no use."""
    collection, name = open_collection(plan["collection"]), plan["shard"].rsplit("/", 1)[-1]
    found = 0
    try:
        for serialized in read_records(plan["shard"]):
            fallback_id = f"{name}__{found}"
            found += 1
            try:
                record = collection.parse(serialized, fallback_id)
            except BadImage as error:
                yield Problem(fallback_id, "table", error.reason, error.detail, error.remedy)
            except ValueError as error:
                yield Problem(fallback_id, "table", "corrupt", f"{error}", "Correct the data set.")
            else:
                item = ListedImage(record.image_id, plan["split"], record.labels, "")
                yield _check(item, record.image_bytes, record.mask_bytes, plan)
    except FileNotFoundError:
        yield Problem(name, "table", "missing", "The shard is missing.", "Fetch the data set again.")
    except ValueError as error:  # no record can be read behind a damaged one
        yield Problem(name, "table", "corrupt", f"{error}", "Fetch the data set again.")
    if found != plan["records"]:
        detail = f"It gave {found} records; the metadata says {plan['records']}."
        yield Problem(name, "table", "wrong_count", detail, "Fetch the data set again.")


def _rename(found, plan, result):
    """Passes on what was found; records get the ids that are planned for their positions."""
    for outcome in found:
        if not isinstance(outcome, Problem):
            new_id = plan["new_ids"].get(str(len(result.image_ids)), outcome.image_id)
            result.image_ids.append(outcome.image_id)
            outcome = replace(outcome, image_id=new_id)
        yield outcome


def total_counts(results: Sequence[ShardResult]) -> tuple[Counter, Counter]:
    """`(class_images, class_pixels)` over all shards, as `Counter`s with int keys."""
    totals = []
    for name in ("class_images", "class_pixels"):
        pairs = chain.from_iterable(getattr(result, name).items() for result in results)
        total: Counter[int] = Counter()
        for key, value in pairs:
            total[int(key)] += value
        totals.append(total)
    class_images, class_pixels = totals
    return class_images, class_pixels
