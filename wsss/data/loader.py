"""tf.data over a collection, shuffled and augmented for training.

Determinism: what an image looks like depends on (seed, epoch, its place in the collection) only, and the
order of the images on (seed, epoch) only; so neither parallelism nor the number of replicas changes a batch.

Global batch: `batch_size` is that of all replicas together. Every step sees a full one: what is left of an
epoch after `len // batch_size` batches is dropped (other images in each epoch, since each is shuffled anew).

An image that cannot be decoded, or has no label map, is skipped and named once in the log, and the epoch is
filled up with others.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Literal

import numpy as np
import tensorflow as tf

from wsss.common import io
from wsss.common.constants import IGNORE
from wsss.common.errors import UserError
from wsss.data import images
from wsss.data.augment import (
    AUGMENTATIONS,
    Augmentation,
    augment_image,
    augment_mask,
    sample_augmentation,
)
from wsss.data.dataset import Collection
from wsss.data.tfrecord import count_records, read_records

_BUFFER = 8 << 20
_NEUTRAL = (0.5, 0.5, 0.5)
_NO_PIXELS = np.zeros((0, 0), np.uint8)
_logger = logging.getLogger(__name__)


def steps_per_epoch(collection: Collection, split: str, batch_size: int) -> int:
    """Number of full global batches in a split.

    Raises:
        UserError: the split holds less than one.
    """
    image_count = sum(collection.shard_lengths[split]) if split in collection.shard_lengths else 0
    collection.shard_paths(split)  # names the splits where there is no such one
    if not 0 < batch_size <= image_count:
        raise UserError(
            f"`batch_size` must lie in [1, {image_count}], the images of split `{split}`. "
            f"Received: {batch_size}."
        )
    return image_count // batch_size


def training_dataset(
    collection: Collection,
    split: str,
    *,
    batch_size: int,
    image_size: int,
    augmentation: Augmentation | str = "published",
    pad_value: Sequence[float] = _NEUTRAL,
    seed: int = 0,
    first_epoch: int = 0,
    epochs: int | None = None,
    cache: bool = False,
    shuffle_buffer: int = 4096,
    replicas: int = 1,
    shard_index: int = 0,
    shard_count: int = 1,
    targets: Literal["labels", "masks"] = "labels",
) -> tf.data.Dataset:
    """Batches of augmented images and their labels, epoch after epoch.

    Under `MirroredStrategy` hand the data set to `fit`, which cuts each batch into the replicas' parts. With
    several workers build one on each: `strategy.distribute_datasets_from_function(lambda context:
    training_dataset(..., replicas=context.num_replicas_in_sync, shard_index=context.input_pipeline_id,
    shard_count=context.num_input_pipelines))`; a worker reads all records but decodes only its own, and the
    global batches are those of a single replica.

    Args:
        collection: `Collection`.
        split: str.
        batch_size: int, images in a global batch.
        image_size: int, side of the crops in pixels.
        augmentation: `Augmentation`, or a name in `AUGMENTATIONS`.
        pad_value: three floats in [0, 1], the color beyond an image's border.
        seed: int; with the epoch it decides everything random.
        first_epoch: int, the epoch to begin with, as when a run is resumed.
        epochs: int, where to stop (exclusive); None goes on for ever.
        cache: whether to keep the decoded images in memory.
        shuffle_buffer: int, records that are shuffled together. A split with no more is shuffled perfectly;
            of a larger one the shards are shuffled, then the records within this many.
        replicas: int, parts that each global batch comes in; 1 yields whole batches.
        shard_index, shard_count: which part of every global batch this worker takes, of how many.
        targets: "labels" of the images, or "masks": their label maps under the same augmentation, those of
            `collection.label_maps` or else of the records.

    Returns:
        `tf.data.Dataset` of `(image, labels)`: float32 (batch_size / replicas, image_size, image_size, 3) in
        [0, 1], and float32 (batch_size / replicas, classes) of 0 and 1, or uint8 (batch_size / replicas,
        image_size, image_size) label maps. Use `steps_per_epoch` with it.

    Raises:
        UserError: no such split, a batch larger than it, or no masks where they are asked for.
        ValueError: the replicas do not divide the batch.
    """
    steps = steps_per_epoch(collection, split, batch_size)
    with_masks = targets == "masks"
    if with_masks and not collection.has_targets:
        raise UserError(f"The collection {collection.name} has no masks to learn from.")
    if batch_size % replicas or replicas % shard_count:
        raise ValueError(
            "`replicas` must divide `batch_size`, and `shard_count` `replicas`. "
            f"Received: {batch_size}, {replicas}, {shard_count}."
        )
    if isinstance(augmentation, str):
        augmentation = AUGMENTATIONS[augmentation]
    seed = seed % (1 << 31)
    image_count = _count_images(collection, split)
    decode = _decoder(collection, SkippedImages(image_count), with_masks)

    def decoded(records):
        columns = records.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        columns = columns.filter(lambda usable, *_: usable)
        return columns.map(lambda _, *columns: columns)

    def augment(epoch, index, image, target):
        image_seed = tf.random.experimental.stateless_fold_in(
            tf.stack([tf.constant(seed, tf.int64), epoch]), index
        )
        parameters = sample_augmentation(augmentation, image_size, image_seed)
        if with_masks:
            target = augment_mask(target, tf.shape(image), parameters, image_size)
        return augment_image(image, parameters, image_size, pad_value), target

    def one_epoch(epoch):
        tf.compat.v1.set_random_seed(1)  # of this graph alone: `shuffle` would mix the global seed in
        if cache:
            order = cached
            buffer = image_count + 1  # one more than there are, so that the cache is read to its end
        else:
            order = _records(collection, split, shuffle_seed=tf.stack([tf.constant(seed, tf.int64), epoch]))
            buffer = min(shuffle_buffer, image_count)
        shuffle_seed = tf.constant(seed, tf.int64) * 1_000_003 + epoch
        order = order.shuffle(buffer, seed=shuffle_seed, reshuffle_each_iteration=False)
        if shard_count > 1:
            order = order.window(batch_size).flat_map(
                lambda *columns: tf.data.Dataset.zip(columns).skip(shard_index * part).take(part)
            )
        if not cache:
            order = decoded(order)
        order = order.repeat().take(steps * part)  # the epoch is full although images were skipped
        return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(epoch).repeat(), order)

    part = batch_size // shard_count
    if cache:
        cached = decoded(_records(collection, split)).cache()
    last_epoch = tf.int64.max if epochs is None else epochs
    dataset = tf.data.Dataset.range(first_epoch, last_epoch).flat_map(one_epoch)
    dataset = dataset.map(
        lambda epoch, example: augment(epoch, *example),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    dataset = dataset.batch(batch_size // replicas, drop_remainder=True)
    if epochs is None:
        batches = tf.data.INFINITE_CARDINALITY
    else:
        batches = max(0, epochs - first_epoch) * steps * replicas // shard_count
    return _finished(dataset, batches)


def _count_images(collection, split):
    """Number of records in a split, and a warning of each shard with others than the metadata says.

    Raises:
        UserError: a shard is missing, or there is no record.
    """
    total = 0
    for path, expected in zip(collection.shard_paths(split), collection.shard_lengths[split], strict=True):
        if io.is_remote(path):  # a read of all; the size is compared with the one recorded
            total += expected
            continue
        try:
            found = count_records(path)
        except FileNotFoundError as error:
            raise UserError(f"A shard of {collection.directory} is missing: {path}.") from error
        _warn_of_count(path, expected, found)
        total += found
    if not total:
        raise UserError(f"The split `{split}` of {collection.directory} holds no records. Prepare it anew.")
    return total


def _warn_of_count(path, expected, found):
    if found != expected:
        _logger.warning("%s holds %d records; the metadata says %d.", path, found, expected)


class SkippedImages:
    """Counts the images of a split that cannot be decoded, and logs a warning at the first sight of each.

    Args:
        images: number of images in the split.
    """

    def __init__(self, images: int):
        self._images, self._lock = images, threading.Lock()
        self._skipped: set[int] = set()

    def add(self, index: int, image_id: str, reason: str) -> None:
        """Counts the image at a position in the split.

        Raises:
            UserError: no image is left.
        """
        with self._lock:
            if index in self._skipped:
                return
            self._skipped.add(index)
            count = len(self._skipped)
        _logger.warning("Skipped image `%s`: %s (%d of %d so far)", image_id, reason, count, self._images)
        if count == self._images:
            raise UserError(f"None of the {count} images can be used. The last one: {image_id}: {reason}")


def _decoder(collection, skipped, with_masks):
    """A `tf.data` function of `(index, serialized)` that gives `(usable, index, image, target)`.

    Images are decoded by `wsss.data.images.decode_image`, as in preparation and prediction, so that an image
    is readable, and its pixels are the same, everywhere. Pillow decodes outside of Python's lock: TensorFlow
    by itself was at most 10% faster (375 x 500 JPEG, 2 cores), and ends training at an image it refuses.
    """
    classes = len(collection.class_names)

    def read_mask(image_id, mask_bytes, size):
        if not with_masks:
            return _NO_PIXELS
        if collection.label_maps is None:
            mask = images.decode_mask(mask_bytes)
        else:
            mask = collection.label_maps.read(image_id.decode(errors="backslashreplace"))
        if mask.shape != size:
            raise images.BadImage("mask_size", "The mask has another size.", "Replace it.")
        if mask.max(where=mask != IGNORE, initial=0) > classes:
            raise images.BadImage("mask_labels", f"Its mask has labels beyond {classes}.", "Replace it.")
        return mask

    def decode(index, image_id, image_bytes, orientation, mask_bytes, labels):
        try:
            if len(labels) and max(labels) >= classes:
                raise images.BadImage("wrongly_labelled", f"It has the label {max(labels)}.", "Correct it.")
            image = images.decode_image(image_bytes, int(orientation))
            return True, image, read_mask(image_id, mask_bytes, image.shape[:2])
        except images.BadImage as error:
            skipped.add(int(index), image_id.decode(errors="backslashreplace"), str(error))
            return False, _NO_PIXELS[..., None].repeat(3, axis=2), _NO_PIXELS

    def decode_record(index, serialized):
        features = _parse(collection, serialized, with_masks and collection.label_maps is None)
        image_id = features.get("image_id", tf.strings.as_string(index))
        names = ("image", "orientation", "mask", "labels")
        arguments = (index, image_id, *(features.get(name, b"") for name in names))
        usable, image, mask = tf.numpy_function(decode, arguments, (tf.bool, tf.uint8, tf.uint8))
        usable, image = tf.ensure_shape(usable, ()), tf.ensure_shape(image, (None, None, 3))
        if with_masks:
            return usable, index, image, tf.ensure_shape(mask, (None, None))[..., None]
        return usable, index, image, _multi_hot(features["labels"], classes)

    return decode_record


def _records(collection, split, shuffle_seed=None):
    """`(index in the split, serialized example)`: in order, or with the shards shuffled and mixed."""
    paths = collection.shard_paths(split)
    lengths = collection.shard_lengths[split]
    begins = [sum(lengths[:shard]) for shard in range(len(lengths))]
    order = tf.range(len(paths))
    if shuffle_seed is not None:
        order = tf.random.experimental.stateless_shuffle(order, shuffle_seed)
    shards = tf.data.Dataset.from_tensor_slices(
        (tf.gather(tf.constant(paths), order), tf.gather(tf.constant(begins, tf.int64), order))
    )
    return shards.interleave(
        lambda path, begin: _read_shard(path, io.is_remote(paths[0])).enumerate(begin),
        cycle_length=1 if shuffle_seed is None else min(8, len(paths)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _read_shard(path, remote):
    """The serialized examples of a shard. Remote ones are opened by `wsss.common.io`, as everywhere."""
    if not remote:
        return tf.data.TFRecordDataset(path, buffer_size=_BUFFER)
    return tf.data.Dataset.from_generator(
        lambda path: read_records(path.decode()),
        output_signature=tf.TensorSpec((), tf.string),
        args=(path,),
    )


def _parse(collection, serialized, with_masks=False):
    """The features of a serialized example that are needed here, under our names."""
    keys = collection.keys
    spec = {
        keys.image: tf.io.FixedLenFeature([], tf.string),
        keys.labels: tf.io.RaggedFeature(tf.int64),
    }
    if keys.image_id:
        spec[keys.image_id] = tf.io.RaggedFeature(tf.string)
    if keys.size:
        spec["orientation"] = tf.io.FixedLenFeature([], tf.int64)
    if with_masks:
        spec[keys.mask] = tf.io.FixedLenFeature([], tf.string)
    features = tf.io.parse_single_example(serialized, spec)
    parsed = {
        "image": features[keys.image],
        "labels": features[keys.labels],
        "orientation": features.get("orientation", tf.constant(1, tf.int64)),
    }
    if keys.image_id:
        parsed["image_id"] = features[keys.image_id][0]
    if with_masks:
        parsed["mask"] = features[keys.mask]
    return parsed


def _multi_hot(labels, classes):
    present = tf.equal(labels[:, None], tf.range(classes, dtype=tf.int64))
    return tf.cast(tf.reduce_any(present, axis=0), tf.float32)


def _finished(dataset, batches):
    """The last touches: the number of batches (Keras asks for it), the options, and work done ahead."""
    options = tf.data.Options()
    options.deterministic = True
    # Every worker builds its own part of each global batch; automatic sharding would take parts of parts.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches))
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)
