"""tf.data over a collection: shuffled and augmented for training, as it is for evaluation.

Determinism: what an image looks like depends on (seed, epoch, its place in the collection) only, and the
order of the images on (seed, epoch) only; so neither parallelism nor the number of replicas changes a batch.

Global batch: `batch_size` is that of all replicas together. Every step sees a full one: what is left of an
epoch after `len // batch_size` batches is dropped (other images in each epoch, since each is shuffled anew).
"""

import tensorflow as tf

from wsss.common import io
from wsss.common.constants import IGNORE
from wsss.common.errors import UserError
from wsss.data.augment import (
    AUGMENTATIONS,
    augment_image,
    augment_mask,
    draw_augmentation,
    place_crop,
    resize_long_side,
)
from wsss.data.tfrecord import read_records

_BUFFER = 8 << 20
_NEUTRAL = (0.5, 0.5, 0.5)


def steps_per_epoch(collection, split, batch_size):
    """Number of full global batches in a split.

    Raises:
        UserError: the split holds less than one.
    """
    images = sum(collection.shard_lengths[split]) if split in collection.shard_lengths else 0
    collection.shard_paths(split)  # names the splits where there is no such one
    if not 0 < batch_size <= images:
        raise UserError(
            f"`batch_size` must lie in [1, {images}], the images of split `{split}`. Received: {batch_size}."
        )
    return images // batch_size


def training_dataset(
    collection,
    split,
    *,
    batch_size,
    image_size,
    augmentation="published",
    pad_value=_NEUTRAL,
    seed=0,
    first_epoch=0,
    epochs=None,
    cache=False,
    shuffle_buffer=4096,
    replicas=1,
    shard_index=0,
    shard_count=1,
    targets="labels",
):
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
        pad_value: three floats in [0, 1], the colour beyond an image's border.
        seed: int; with the epoch it decides everything random.
        first_epoch: int, the epoch to begin with, as when a run is resumed.
        epochs: int, where to stop (exclusive); None goes on for ever.
        cache: whether to keep the decoded images in memory.
        shuffle_buffer: int, records that are shuffled together. A split with no more is shuffled perfectly;
            of a larger one the shards are shuffled, then the records within this many.
        replicas: int, parts that each global batch comes in; 1 yields whole batches.
        shard_index, shard_count: which part of every global batch this worker takes, of how many.
        targets: "labels" of the images, or "masks": their label maps under the same augmentation.

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
    if with_masks and not collection.has_masks:
        raise UserError(f"The collection {collection.name} has no masks to learn from.")
    if batch_size % replicas or replicas % shard_count:
        raise ValueError(
            "`replicas` must divide `batch_size`, and `shard_count` `replicas`. "
            f"Received: {batch_size}, {replicas}, {shard_count}."
        )
    if isinstance(augmentation, str):
        augmentation = AUGMENTATIONS[augmentation]
    classes = len(collection.class_names)
    seed = seed % (1 << 31)
    images = sum(collection.shard_lengths[split])

    def decode(index, serialized):
        features = _parse(collection, serialized, with_masks=with_masks)
        image = decode_image(features["image"], features["orientation"])
        if with_masks:
            return index, image, tf.io.decode_png(features["mask"], channels=1)
        return index, image, _multi_hot(features["labels"], classes)

    def augment(epoch, index, image, target):
        image_seed = tf.random.experimental.stateless_fold_in(
            tf.stack([tf.constant(seed, tf.int64), epoch]), index
        )
        draw = draw_augmentation(augmentation, image_size, image_seed)
        if with_masks:
            target = augment_mask(target, tf.shape(image), draw, image_size)
        return augment_image(image, draw, image_size, pad_value), target

    def one_epoch(epoch):
        tf.compat.v1.set_random_seed(1)  # of this graph alone: `shuffle` would mix the global seed in
        if cache:
            order = cached
            buffer = images + 1  # one more than there are, so that the cache is read to its end
        else:
            order = _records(collection, split, shuffle_seed=tf.stack([tf.constant(seed, tf.int64), epoch]))
            buffer = min(shuffle_buffer, images)
        shuffle_seed = tf.constant(seed, tf.int64) * 1_000_003 + epoch
        order = order.shuffle(buffer, seed=shuffle_seed, reshuffle_each_iteration=False)
        order = order.take(steps * batch_size)
        return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(epoch).repeat(), order)

    if cache:
        cached = _records(collection, split).map(decode, num_parallel_calls=tf.data.AUTOTUNE).cache()
    last_epoch = tf.int64.max if epochs is None else epochs
    dataset = tf.data.Dataset.range(first_epoch, last_epoch).flat_map(one_epoch)
    if shard_count > 1:
        part = batch_size // shard_count
        dataset = dataset.window(batch_size).flat_map(
            lambda *columns: tf.data.Dataset.zip(columns).skip(shard_index * part).take(part)
        )
    if cache:
        step = lambda epoch, cached: augment(epoch, *cached)  # noqa: E731
    else:
        step = lambda epoch, record: augment(epoch, *decode(*record))  # noqa: E731
    dataset = dataset.map(step, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size // replicas, drop_remainder=True)
    if epochs is None:
        batches = tf.data.INFINITE_CARDINALITY
    else:
        batches = max(0, epochs - first_epoch) * steps * replicas // shard_count
    return _finished(dataset, batches)


def evaluation_dataset(
    collection, split, *, batch_size=1, image_size=None, max_side=None, pad_value=_NEUTRAL, with_masks=True
):
    """Images as they are, in the collection's order, every one once (the last batch may be smaller).

    Args:
        collection: `Collection`.
        split: str.
        batch_size: int. Images of unlike size are padded at the bottom and right to the batch's largest.
        image_size: int or None; if given every image is resized to this long side (bicubic, antialiased) and
            padded to the square, so that all batches have one shape.
        max_side: int or None; images with a longer side are shrunk to it. Excludes `image_size`.
        pad_value: three floats in [0, 1], the colour beyond an image's border; masks are padded with 255.
        with_masks: whether to decode the masks, where the collection has them.

    Returns:
        `tf.data.Dataset` of dicts: `image` float32 (batch, height, width, 3) in [0, 1]; `size` int32
        (batch, 2), the part that the image fills; `labels` float32 (batch, classes); `image_id` string
        (batch,); and `mask` uint8 (batch, height, width), where known.

    Raises:
        UserError: there is no such split.
        ValueError: both `image_size` and `max_side` are given.
    """
    if image_size and max_side:
        raise ValueError("Give `image_size` or `max_side`, not both.")
    classes = len(collection.class_names)
    with_masks = with_masks and collection.has_masks

    def fit_side(height, width):
        if image_size:
            return tf.constant(image_size)
        return tf.minimum(tf.maximum(height, width), max_side or tf.int32.max)

    def load(index, serialized):
        features = _parse(collection, serialized, with_masks=with_masks)
        image = decode_image(features["image"], features["orientation"])
        shape = tf.shape(image)
        side = fit_side(shape[0], shape[1])
        image = tf.cond(
            tf.equal(side, tf.reduce_max(shape[:2])), lambda: image, lambda: resize_long_side(image, side)
        )
        size = tf.shape(image)[:2]
        image = tf.cast(image, tf.float32) / 255.0
        example = {
            "image": image,
            "size": size,
            "labels": _multi_hot(features["labels"], classes),
            "image_id": features["image_id"] if collection.keys.image_id else tf.strings.as_string(index),
        }
        if with_masks:
            mask = tf.io.decode_png(features["mask"], channels=1)
            example["mask"] = tf.image.resize(mask, size, method="nearest")
        if image_size:
            example["image"] = place_crop(image, image_size, (0, 0), pad_value)
            if with_masks:
                mask = tf.cast(example["mask"], tf.float32)
                example["mask"] = tf.cast(place_crop(mask, image_size, (0, 0), (IGNORE,)), tf.uint8)
        if with_masks:
            example["mask"] = example["mask"][..., 0]
        return example

    def colour_padding(batch):  # `padded_batch` knows one number a component, not one a channel
        batch["image"] = tf.where(batch["image"] < 0, tf.constant(pad_value, tf.float32), batch["image"])
        return batch

    dataset = _records(collection, split).map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if batch_size == 1 or image_size:
        dataset = dataset.batch(batch_size)
    else:
        padding = {"image": -1.0, "size": 0, "labels": 0.0, "image_id": ""}
        if with_masks:
            padding["mask"] = tf.constant(IGNORE, tf.uint8)
        dataset = dataset.padded_batch(batch_size, padding_values=padding).map(colour_padding)
    return _finished(dataset, -(-sum(collection.shard_lengths[split]) // batch_size))


def decode_image(data, orientation=1):
    """Decodes an image to upright RGB, with the pixels that `wsss.data.images.decode_image` gives.

    Args:
        data: scalar string, the bytes of a JPEG, PNG, BMP or GIF.
        orientation: scalar int, EXIF orientation to undo.

    Returns:
        uint8 (height, width, 3).
    """
    image = tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
    )
    image = tf.ensure_shape(image, (None, None, 3))
    orientation = tf.cast(orientation, tf.int32)
    turns = (
        (orientation >= 5, lambda image: tf.transpose(image, (1, 0, 2))),
        (_is_one_of(orientation, (3, 4, 7, 8)), lambda image: image[::-1]),
        (_is_one_of(orientation, (2, 3, 6, 7)), lambda image: image[:, ::-1]),
    )
    for condition, turn in turns:
        image = tf.cond(condition, lambda image=image, turn=turn: turn(image), lambda image=image: image)
    return image


def _is_one_of(value, choices):
    return tf.reduce_any(tf.equal(value, choices))


def _records(collection, split, shuffle_seed=None):
    """`(index in the split, serialised example)`: in order, or with the shards shuffled and mixed."""
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
    """The serialised examples of a shard. Remote ones are opened by `wsss.common.io`, as everywhere."""
    if not remote:
        return tf.data.TFRecordDataset(path, buffer_size=_BUFFER)
    return tf.data.Dataset.from_generator(
        lambda path: read_records(path.decode()),
        output_signature=tf.TensorSpec((), tf.string),
        args=(path,),
    )


def _parse(collection, serialized, with_masks=False):
    """The features of a serialised example that are needed here, under our names."""
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
