"""`wsss.data.loader`: decoding, batches, determinism."""

import dataclasses
import zlib

import numpy as np
import pytest
import tensorflow as tf

from tests.data.test_images import encoded, picture
from wsss.common import io
from wsss.common.errors import UserError, one_line
from wsss.data import images
from wsss.data.augment import Augmentation
from wsss.data.dataset import shard_name, write_metadata
from wsss.data.loader import (
    steps_per_epoch,
    training_dataset,
)
from wsss.data.records import Record, format_example
from wsss.data.tfrecord import read_records, write_records

SMALL = {"batch_size": 4, "image_size": 8, "seed": 3}
PLAIN = {**SMALL, "augmentation": "none"}


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Ten images in three shards; image `i` has the gray value `20 * i` everywhere and the label `i % 3`."""
    directory = str(tmp_path_factory.mktemp("collection"))
    lengths, records = (4, 3, 3), []
    for index in range(10):
        image = images.Image.new("RGB", (9 + index, 8), (20 * index,) * 3)
        mask = images.encode_mask(np.full((8, 9 + index), 1 + index % 3, np.uint8))
        records.append(Record(f"i{index}", encoded(image, "PNG"), (index % 3,), 8, 9 + index, 1, mask))
    size = begin = 0
    for shard, length in enumerate(lengths):
        path = io.join(directory, shard_name("grays", "train", shard, len(lengths)))
        size += write_records(path, map(format_example, records[begin : begin + length]))[1]
        begin += length
    return write_metadata(
        directory,
        name="grays",
        class_names=("a", "b", "c"),
        shard_lengths={"train": lengths},
        split_bytes={"train": size},
        has_masks=True,
    )


def grays(batches):
    """The images' numbers in a list of batches, read off their centers."""
    return [[round(float(value) * 255 / 20) for value in image[:, 4, 4, 0]] for image, _ in batches]


def take(dataset, count):
    return [tuple(part.numpy() for part in batch) for batch in dataset.take(count)]


def small_collection(directory, image_bytes, orientation=1):
    """One shard of the given images, 8 x 8 where they are readable; image `i` has the label `i % 3`."""
    records = [
        Record(f"i{index}", data, (index % 3,), 8, 8, orientation) for index, data in enumerate(image_bytes)
    ]
    path = io.join(str(directory), shard_name("small", "train", 0, 1))
    size = write_records(path, map(format_example, records))[1]
    return write_metadata(
        str(directory),
        name="small",
        class_names=("a", "b", "c"),
        shard_lengths={"train": (len(records),)},
        split_bytes={"train": size},
        has_masks=False,
    )


def damaged_images():
    """What Pillow or TensorFlow, or both, refuse to decode."""
    gray = images.Image.new("RGB", (8, 8), (99,) * 3)
    png, bmp = encoded(gray, "PNG"), encoded(gray, "BMP")
    chunk = b"ABCD"  # a critical chunk that no program knows
    unknown = b"\0\0\0\0" + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return {
        "text": b"this is no image",
        "cut": encoded(gray)[:-60],
        "bmp_with_bytes_missing": bmp[:2] + b"\0\0\0\0" + bmp[6:-2],
        "png_unknown_chunk": png[:33] + unknown + png[33:],
        "png_with_wrong_bits": png[:45] + bytes([png[45] ^ 8]) + png[46:],
        "gif_cut": encoded(picture(40, 40), "GIF")[:-300],
    }


@pytest.mark.parametrize("cache", [False, True])
def test_training_skips_and_names_images_that_cannot_be_decoded(tmp_path, caplog, cache):
    good = [encoded(images.Image.new("RGB", (8, 8), (20 * index,) * 3), "PNG") for index in range(6)]
    damaged = list(damaged_images().values())
    collection = small_collection(tmp_path, good + damaged)
    readable = set(range(6))
    for index, data in enumerate(damaged, start=6):
        try:
            images.decode_image(data)
            readable.add(index)
        except images.BadImage:
            pass
    dataset = training_dataset(collection, "train", **PLAIN, cache=cache, epochs=2)
    batches = take(dataset, 99)
    assert len(batches) == 2 * steps_per_epoch(collection, "train", 4)  # epochs are full all the same
    skipped = {message.split("`")[1] for message in caplog.messages}
    assert skipped == {f"i{index}" for index in range(6 + len(damaged)) if index not in readable}
    assert len(caplog.messages) == len(skipped) >= 2
    assert f"({len(skipped)} of {6 + len(damaged)} so far)" in caplog.messages[-1]


@pytest.mark.parametrize("name", damaged_images())
def test_what_preparation_accepts_training_decodes_to_the_same_pixels(tmp_path, name):
    data = damaged_images()[name]
    try:
        metadata = images.inspect_image(data)
    except images.BadImage:
        with pytest.raises(images.BadImage):
            images.decode_image(data)
        return
    assert images.decode_image(data).shape == (metadata.height, metadata.width, 3)
    dataset = training_dataset(small_collection(tmp_path, [data]), "train", **{**PLAIN, "batch_size": 1})
    ((batch, _),) = take(dataset, 1)
    np.testing.assert_allclose(batch[0] * 255, images.decode_image(data), atol=1e-3)


def test_an_image_with_a_label_beyond_the_classes_is_skipped_and_named(tmp_path, caplog):
    collection = small_collection(tmp_path, [encoded(images.Image.new("RGB", (8, 8)))] * 3)
    fewer = dataclasses.replace(collection, class_names=("a", "b"))
    batches = take(training_dataset(fewer, "train", **{**PLAIN, "batch_size": 2}), 3)
    assert all(labels.sum() == 2 for _, labels in batches)
    assert [message.split("`")[1] for message in caplog.messages] == ["i2"]


def test_a_collection_without_a_readable_image_is_refused(tmp_path):
    collection = small_collection(tmp_path, [b"text", b"more text"])
    with pytest.raises(tf.errors.OpError, match="None of the 2 images can be used") as caught:
        take(training_dataset(collection, "train", **{**PLAIN, "batch_size": 1}), 1)
    assert one_line(caught.value).startswith("None of the 2 images can be used. The last one: i")


def test_a_shard_with_fewer_records_than_the_metadata_says_is_named(tmp_path, caplog):
    data = [encoded(images.Image.new("RGB", (8, 8), (90 * index,) * 3)) for index in range(3)]
    collection = small_collection(tmp_path, data)
    (path,) = collection.shard_paths("train")
    write_records(path, list(read_records(path))[:2])
    batches = take(training_dataset(collection, "train", **{**PLAIN, "batch_size": 2}), 2)
    assert [len(labels) for _, labels in batches] == [2, 2]
    assert caplog.messages == [f"{path} holds 2 records; the metadata says 3."]
    write_records(path, [])
    with pytest.raises(UserError, match="holds no records"):
        training_dataset(collection, "train", **{**PLAIN, "batch_size": 2})


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_orientation_is_undone_while_training(tmp_path, orientation):
    data = encoded(picture(8, 8))
    collection = small_collection(tmp_path, [data], orientation=orientation)
    ((batch, _),) = take(training_dataset(collection, "train", **{**PLAIN, "batch_size": 1}), 1)
    expected = images.decode_image(data, orientation)
    np.testing.assert_allclose(batch[0] * 255, expected, atol=1e-3)


def test_batches_have_the_promised_shapes_and_ranges(collection):
    dataset = training_dataset(collection, "train", **SMALL)
    image_spec, labels_spec = dataset.element_spec
    assert (image_spec.shape, image_spec.dtype) == ((4, 8, 8, 3), tf.float32)
    assert (labels_spec.shape, labels_spec.dtype) == ((4, 3), tf.float32)
    ((image, labels),) = take(dataset, 1)
    assert image.min() >= 0
    assert image.max() <= 1
    np.testing.assert_array_equal(labels.sum(1), 1)


def test_labels_stay_with_their_images(collection):
    batches = take(training_dataset(collection, "train", **PLAIN), 4)
    for numbers, (_, labels) in zip(grays(batches), batches):
        np.testing.assert_array_equal(labels.argmax(1), np.array(numbers) % 3)


def test_an_epoch_shows_full_batches_of_different_images(collection):
    assert steps_per_epoch(collection, "train", 4) == 2
    batches = grays(take(training_dataset(collection, "train", **PLAIN, epochs=3), 99))
    assert len(batches) == 6
    epochs = [batches[step] + batches[step + 1] for step in (0, 2, 4)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("cache", [False, True])
def test_the_same_seed_gives_the_same_batches_whatever_the_global_seed(collection, cache):
    runs = []
    for global_seed in (1, 2):
        tf.random.set_seed(global_seed)
        runs.append(take(training_dataset(collection, "train", **SMALL, cache=cache), 5))
    for (image, labels), (image_again, labels_again) in zip(*runs):
        np.testing.assert_array_equal(image, image_again)
        np.testing.assert_array_equal(labels, labels_again)
    other = take(training_dataset(collection, "train", **{**SMALL, "seed": 4}), 1)
    assert not np.array_equal(other[0][0], runs[0][0][0])


def test_a_run_resumed_at_an_epoch_sees_what_the_undisturbed_one_saw(collection):
    undisturbed = take(training_dataset(collection, "train", **SMALL), 6)
    resumed = take(training_dataset(collection, "train", **SMALL, first_epoch=2), 2)
    for (image, labels), (image_again, labels_again) in zip(undisturbed[4:], resumed):
        np.testing.assert_array_equal(image, image_again)
        np.testing.assert_array_equal(labels, labels_again)


def test_cached_images_are_augmented_anew_each_epoch(collection):
    augmentation = Augmentation(long_side=(1, 1), flip=0, saturation=0, hue=0, random_placement=False)
    dataset = training_dataset(collection, "train", **{**SMALL, "augmentation": augmentation}, cache=True)
    first, second = (np.concatenate([image for image, _ in take(dataset.skip(skip), 2)]) for skip in (0, 2))
    assert not np.array_equal(np.sort(first.max((1, 2, 3))), np.sort(second.max((1, 2, 3))))


def test_the_parts_of_two_replicas_make_the_batch_of_one(collection):
    whole = take(training_dataset(collection, "train", **SMALL), 3)
    halves = take(training_dataset(collection, "train", **SMALL, replicas=2), 6)
    for step, (image, _) in enumerate(whole):
        np.testing.assert_array_equal(image, np.concatenate([half[0] for half in halves[2 * step :][:2]]))


def test_the_shards_of_two_workers_make_the_batch_of_one(collection):
    whole = take(training_dataset(collection, "train", **SMALL), 5)
    workers = [
        take(training_dataset(collection, "train", **SMALL, replicas=2, shard_index=worker, shard_count=2), 5)
        for worker in (0, 1)
    ]
    for (image, labels), one, two in zip(whole, *workers):
        np.testing.assert_array_equal(image, np.concatenate([one[0], two[0]]))
        np.testing.assert_array_equal(labels, np.concatenate([one[1], two[1]]))


def test_a_mirrored_strategy_cuts_the_global_batch(collection):
    devices = tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy(devices)
    dataset = training_dataset(collection, "train", **SMALL)
    (distributed,) = iter(strategy.experimental_distribute_dataset(dataset.take(1)))
    parts = strategy.experimental_local_results(distributed[0])
    np.testing.assert_array_equal(np.concatenate(parts), take(dataset, 1)[0][0])


def test_a_small_shuffle_buffer_still_shows_every_image(collection):
    batches = take(training_dataset(collection, "train", **{**PLAIN, "batch_size": 10}, shuffle_buffer=2), 2)
    first, second = grays(batches)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_impossible_batches_are_refused(collection):
    with pytest.raises(UserError, match=r"\[1, 10\]"):
        training_dataset(collection, "train", **{**SMALL, "batch_size": 11})
    with pytest.raises(UserError, match="no split `val`"):
        training_dataset(collection, "val", **SMALL)
    with pytest.raises(ValueError, match="replicas"):
        training_dataset(collection, "train", **SMALL, replicas=3)


def test_the_number_of_batches_is_known_beforehand(collection):
    def batches(dataset):
        return int(dataset.cardinality())

    assert batches(training_dataset(collection, "train", **SMALL)) == tf.data.INFINITE_CARDINALITY
    assert batches(training_dataset(collection, "train", **SMALL, epochs=3, first_epoch=1)) == 4
    part = training_dataset(collection, "train", **SMALL, epochs=2, replicas=4, shard_count=2)
    assert batches(part) == len(list(part)) == 8


def test_masks_follow_their_images_through_the_augmentation(tmp_path):
    """A red left half is class 1; wherever the image went, its mask went with it."""
    mask = np.zeros((20, 30), np.uint8)
    mask[:, :15] = 1
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[mask == 1] = (255, 0, 0)
    data = encoded(images.Image.fromarray(pixels), "PNG")
    records = [Record(f"i{i}", data, (0,), 20, 30, 1, images.encode_mask(mask)) for i in range(4)]
    path = io.join(str(tmp_path), shard_name("halves", "train", 0, 1))
    size = write_records(path, map(format_example, records))[1]
    halves = write_metadata(
        str(tmp_path),
        name="halves",
        class_names=("red",),
        shard_lengths={"train": (4,)},
        split_bytes={"train": size},
        has_masks=True,
    )
    plain = Augmentation((0.6, 2.0), 0.5, 0.0, 0.0, 0.0, 0.0)
    blue = {"pad_value": (0.0, 0.0, 1.0), "augmentation": plain, "targets": "masks"}
    seen = set()
    for crops, masks in take(training_dataset(halves, "train", **{**SMALL, "image_size": 24}, **blue), 6):
        for crop, labels in zip(crops, masks):
            beyond = crop[..., 2] > 0.5
            np.testing.assert_array_equal(labels == 255, beyond)
            near_the_edge = (crop[..., 0] > 0.05) & (crop[..., 0] < 0.95)
            sure = ~beyond & ~near_the_edge
            np.testing.assert_array_equal(labels[sure] == 1, crop[..., 0][sure] > 0.5)
            seen.update(np.unique(labels))
    assert seen == {0, 1, 255}
