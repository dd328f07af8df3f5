"""Reading a collection, or a plain folder of images, shard by shard into batches of like-shaped images."""

import itertools
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import apache_beam as beam

from wsss.common import io
from wsss.common.fingerprint import combine
from wsss.data.dataset import Collection, open_collection
from wsss.data.images import BadImage, inspect_image
from wsss.data.records import Record
from wsss.data.sources.mask_coding import check_masks
from wsss.data.tfrecord import read_records
from wsss.pipeline.dead_letter import Failure, ShardEnd
from wsss.pipeline.execution import measures
from wsss.pipeline.image_folder import ImageFolder, fingerprints
from wsss.pipeline.image_tags import ImageTags


class InputImage(NamedTuple):
    """One image on its way through the pipeline.

    Attributes:
        shard: name of the shard that it belongs to.
        record: the image, still encoded, and what is known about it.
        preview: whether a picture of the result is wanted.
    """

    shard: str
    record: Record
    preview: bool


@dataclass(frozen=True)
class InputShard:
    """The unit of work: one TFRecord file of a collection, or some images of a folder.

    Attributes:
        name: unique in the job, such as `train-00000-of-00010`.
        source: fingerprint of its content: of the TFRecord file, or of names and bytes of the images.
        images: number of images in it.
        record_path: the TFRecord file, or None.
        image_paths: of a folder, `(image_id, path)` each; see `ImageShards.with_paths`.
        image_labels: of a folder with tags, the classes of each image, 0-based; None of one without.
        previews: positions in the shard of the images of which pictures are wanted.
        limit: number of images, the first ones, that are read; None reads all.
    """

    name: str
    source: str
    images: int
    record_path: str | None = None
    image_paths: tuple[tuple[str, str], ...] = ()
    image_labels: tuple[tuple[int, ...] | None, ...] = ()
    previews: tuple[int, ...] = ()
    limit: int | None = None


@dataclass(frozen=True)
class ImageShards:
    """The images of a job.

    Attributes:
        shards: the units of work, in order.
        collection: the collection, or None for a plain folder, of which no masks are known.
        folder: that folder, or None.
        tags: of the images of the folder, or None.
    """

    shards: tuple[InputShard, ...]
    collection: Collection | None = None
    folder: ImageFolder | None = None
    tags: ImageTags | None = None

    def with_paths(self, shards: Iterable[InputShard]) -> Iterator[InputShard]:
        """Yields some of the shards with the paths of their images, which `shards` leaves out."""
        folder = self.folder
        if folder is None:
            yield from shards
            return
        positions = {shard.name: position for position, shard in enumerate(self.shards)}
        for shard in shards:
            members = folder.members(positions[shard.name])
            paths = tuple((image_id, file.path) for _, image_id, file in members)
            yield replace(shard, image_paths=paths, image_labels=_labels_of(members, self.tags))

    @property
    def name(self) -> str:
        """Of the collection."""
        return self.collection.name if self.collection else "pseudo_labels"


def open_images(
    data: str,
    split: str,
    *,
    images_per_shard: int = 64,
    previews: int = 0,
    leave_out: Sequence[str] = (),
    tags: ImageTags | None = None,
) -> ImageShards:
    """Lists the shards of a collection's split, or hashes the images of a folder into shards.

    Args:
        data: directory or `gs://…` of a collection, name of a TFDS data set, or a folder of images.
        split: name of the split, or `all`; for a folder of images it only names the shards.
        images_per_shard: of a folder, how many images make a shard, about.
        previews: number of images in all of which pictures are wanted; they are spaced evenly.
        leave_out: folders whose files are no images to be read, such as the output within the folder.
        tags: of the images of a folder.

    Raises:
        UserError: there is neither, the tags are of other images, or two images of a collection have one id.
    """
    is_folder = io.is_remote(data) or io.exists(data)  # a store knows no folders, only what is in them
    if is_folder and not io.exists(io.join(data, "dataset_info.json")):
        folder = ImageFolder(data, images_per_shard, leave_out)
        shards = tuple(_folder_shards(folder, split, previews, tags))
        if tags is not None:
            tags.check_use()
        return ImageShards(shards, folder=folder, tags=tags)
    collection = open_collection(data)
    collection.check_ids(split)
    check_masks(collection)
    return ImageShards(_collection_shards(collection, split, previews), collection)


def _collection_shards(collection, split, previews):
    splits = collection.splits_in(split)
    paths = [path for each in splits for path in collection.shard_paths(each)]
    lengths = [length for each in splits for length in collection.shard_lengths[each]]
    names = [
        _shard_name(each, index, len(collection.shard_lengths[each]))
        for each in splits
        for index in range(len(collection.shard_lengths[each]))
    ]
    wanted, starts = _spaced(previews, sum(lengths)), itertools.accumulate(lengths, initial=0)
    sources = fingerprints(paths)
    collection.warn_of_changes(dict(zip(paths, sources, strict=True)))
    return tuple(
        InputShard(
            name=name,
            source=source,
            images=length,
            record_path=path,
            previews=tuple(
                position - start
                for position in wanted[bisect_left(wanted, start) : bisect_left(wanted, start + length)]
            ),
        )
        for name, path, source, length, start in zip(names, paths, sources, lengths, starts)
    )


def sample(shards: Sequence[InputShard], images: int) -> list[InputShard]:
    """The shards cut to about `images` images in all, spread evenly; empty ones are left out."""
    limits = _spread(images, len(shards))
    return [replace(shard, limit=limit) for shard, limit in zip(shards, limits, strict=True) if limit]


class ReadBatches(beam.PTransform):
    """Reads `InputShard`s into batches: tuples of at most `batch_size` `InputImage`s of one size.

    Batches are formed here, in the order of the shard, and not by Beam: its batches depend on timing and on
    the number of workers, and sums of floating-point numbers depend on the batch. So two runs give the same
    bytes. A `Failure`, and the `ShardEnd` that comes last, are batches of their own. Other errors of a file
    system than a missing file pass, so that the runner tries again: they are nothing about the image.
    """

    def __init__(self, collection: Collection | None, batch_size: int):
        super().__init__()
        self._collection, self._batch_size = collection, batch_size

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        return shards | beam.ParDo(_ReadShard(self._collection, self._batch_size))


class _ReadShard(beam.DoFn):
    def __init__(self, collection, batch_size):
        self._collection, self._batch_size = collection, batch_size

    def process(self, shard):
        waiting: defaultdict[tuple[int, int], list[InputImage]] = defaultdict(list)
        images = 0
        for position, outcome in enumerate(itertools.islice(self._read(shard), shard.limit)):
            images += 1
            if isinstance(outcome, Failure):
                yield (outcome,)
                continue
            measures.count("images_read")
            measures.record("image_bytes", len(outcome.image_bytes))
            image = InputImage(shard.name, outcome, position in shard.previews)
            batch = waiting[outcome.height, outcome.width]
            batch.append(image)
            if len(batch) == self._batch_size:
                yield tuple(waiting.pop((outcome.height, outcome.width)))
        yield from map(tuple, waiting.values())
        yield (ShardEnd(shard.name, shard.source, images),)

    def _read(self, shard) -> Iterator[Record | Failure]:
        if shard.record_path is None:
            return _read_images(shard)
        return _read_collection(shard, self._collection)


def _read_collection(shard, collection):
    name = shard.record_path.rsplit("/", 1)[-1]
    count = 0
    try:
        for serialized in read_records(shard.record_path):
            image_id = f"{name}__{count}"
            count += 1
            try:
                yield collection.parse(serialized, fallback_id=image_id)
            except (ValueError, KeyError) as error:
                yield Failure.of(shard.name, image_id, "read", error)
        if count < shard.images:
            raise ValueError(f"{name} holds {count} records; the metadata says {shard.images}.")
    except (FileNotFoundError, ValueError) as error:  # the rest of the file is lost: a line for each image
        for index in range(count, shard.images):
            yield Failure.of(shard.name, f"{name}__{index}", "read", error)


def _labels_of(members, tags):
    return () if tags is None else tuple(tags.of(file.name, image_id) for _, image_id, file in members)


def _read_images(shard):
    every = shard.image_labels or itertools.repeat(())
    for (image_id, path), labels in zip(shard.image_paths, every):
        if labels is None:
            why = "Unlabeled: the table of labels has no row of it, or rows that disagree."
            yield Failure(shard.name, image_id, "read", why)
            continue
        try:
            data = io.read_bytes(path)
            size = inspect_image(data)
            yield Record(image_id, data, labels, size.height, size.width, size.orientation)
        except BadImage as error:
            yield Failure.of(shard.name, image_id, "decode", error)
        except (FileNotFoundError, PermissionError, MemoryError) as error:
            yield Failure.of(shard.name, image_id, "read", error)


def _folder_shards(folder, split, previews, tags):
    wanted = set(_spaced(previews, folder.images))
    for index in range(folder.shards):
        members = folder.members(index)
        yield InputShard(
            name=_shard_name(split, index, folder.shards),
            source=_source(folder, members, tags),
            images=len(members),
            previews=tuple(at for at, (position, _, _) in enumerate(members) if position in wanted),
        )


def _source(folder, members, tags):
    """Fingerprint of images, and of their tags where there are some: with others they are labeled anew."""
    of_images = folder.source(members)
    return of_images if tags is None else combine([of_images, *map(str, _labels_of(members, tags))])


def _shard_name(split, index, count):
    return f"{split}-{index:05d}-of-{count:05d}"


def _spread(total, shards):
    """Spreads a number of images evenly over shards."""
    return [(index + 1) * total // shards - index * total // shards for index in range(shards)]


def _spaced(wanted, images):
    """Positions of at most `wanted` of so many images, evenly spaced."""
    wanted = min(wanted, images)
    return [(2 * index + 1) * images // (2 * wanted) for index in range(wanted)]
