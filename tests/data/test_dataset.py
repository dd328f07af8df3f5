"""`wsss.data.dataset` and `wsss.data.tfrecord`: the format on disk."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.test_images import encoded, oriented, picture
from wsss.common import fingerprint, io
from wsss.common.errors import UserError
from wsss.data.dataset import FINGERPRINTS, open_collection, shard_name, write_metadata
from wsss.data.images import encode_mask
from wsss.data.records import Record, format_example, parse_example
from wsss.data.tfrecord import decode_example, encode_example, read_records, write_records


def write_collection(directory, masks=True):
    """Two splits, three images, one of them turned."""
    mask = encode_mask(np.full((7, 12), 2, np.uint8)) if masks else None
    turned = encode_mask(np.ones((12, 7), np.uint8)) if masks else None
    records = [
        Record("a", encoded(picture(seed=1)), (0, 1), 7, 12, 1, mask),
        Record("b", encoded(picture(seed=2)), (), 7, 12, 1, mask),
        Record("c ä", oriented(6), (1,), 12, 7, 6, turned),
    ]
    splits = {"train": [records[:1], records[1:2]], "val": [records[2:]]}
    sizes = {}
    for split, shards in splits.items():
        sizes[split] = 0
        for index, shard in enumerate(shards):
            path = io.join(directory, shard_name("objects", split, index, len(shards)))
            sizes[split] += write_records(path, map(format_example, shard))[1]
    collection = write_metadata(
        str(directory),
        name="objects",
        class_names=("cat", "dog"),
        shard_lengths={split: [len(shard) for shard in shards] for split, shards in splits.items()},
        split_bytes=sizes,
        has_masks=masks,
    )
    return collection, records


def test_a_written_collection_is_read_back(tmp_path):
    written, records = write_collection(tmp_path)
    collection = open_collection(str(tmp_path))
    assert collection == written
    assert collection.name == "objects"
    assert collection.class_names == ("cat", "dog")
    assert collection.split_sizes == {"train": 2, "val": 1}
    assert collection.has_masks
    assert [*collection.read("train"), *collection.read("val")] == records
    (turned,) = collection.read("val")
    assert turned.image.shape == (12, 7, 3)
    assert turned.mask.shape == (12, 7)


def test_a_shard_that_is_not_the_one_that_was_written_is_named(tmp_path, caplog):
    collection, _ = write_collection(tmp_path)
    recorded = json.loads((tmp_path / "fingerprints.json").read_text())
    assert recorded == {path.name: fingerprint.of_file(path) for path in tmp_path.glob("*.tfrecord*")}
    assert open_collection(str(tmp_path)).fingerprints == recorded
    before = collection.fingerprint("train")
    list(collection.read("train"))
    assert not caplog.messages
    path = collection.shard_paths("train")[0]
    write_records(path, [*read_records(path)] * 2)
    list(collection.read("train"))  # another size
    assert collection.fingerprint("train", "val") != before  # another content
    assert len(caplog.messages) == 2
    assert all(f"{path} differs from what was prepared" in message for message in caplog.messages)
    (tmp_path / "fingerprints.json").write_text('{"a": "b"}')
    with pytest.raises(UserError, match="damaged"):
        open_collection(str(tmp_path))
    (tmp_path / "fingerprints.json").unlink()  # as of version 0.1.0 and of TFDS
    assert open_collection(str(tmp_path)).fingerprints == {}


def test_a_collection_without_masks_has_none(tmp_path):
    collection, _ = write_collection(tmp_path, masks=False)
    assert not collection.has_masks
    assert [record.mask for record in collection.read("train")] == [None, None]


def test_tfds_opens_the_collection(tmp_path):
    import tensorflow_datasets as tfds

    _, records = write_collection(tmp_path)
    builder = tfds.builder_from_directory(tmp_path)
    assert builder.info.splits["train"].num_examples == 2
    assert builder.info.features["labels"].feature.names == ["cat", "dog"]
    examples = list(tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=False)))
    assert [example["image_id"].decode() for example in examples] == ["a", "b"]
    np.testing.assert_array_equal(examples[0]["labels"], [0, 1])
    np.testing.assert_array_equal(examples[0]["mask"][..., 0], records[0].mask)
    assert examples[0]["image"].shape == (7, 12, 3)


def test_a_collection_is_small_enough_to_send_to_workers(tmp_path):
    collection, _ = write_collection(tmp_path)
    assert pickle.loads(pickle.dumps(collection)) == collection


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    collection, _ = write_collection(tmp_path)
    with pytest.raises(UserError, match=r"`test`.*train, val"):
        collection.shard_paths("test")


def test_opening_nothing_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"wsss\.prepare"):
        open_collection(str(tmp_path))
    with pytest.raises(UserError, match=r"wsss\.prepare"):
        open_collection("gs_or_what/../nothing")
    with pytest.raises(UserError, match="neither a folder"):
        open_collection("no_such_data_set_at_all")


def test_the_name_of_a_tfds_data_set_works_wherever_a_folder_does(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    _, records = write_collection(tmp_path / "objects" / "1.0.0")
    builder = tfds.builder
    monkeypatch.setattr(tfds, "builder", lambda name: builder(name, data_dir=tmp_path))
    assert list(open_collection("objects").read("train")) == records[:2]
    with pytest.raises(UserError, match="download_and_prepare"):
        open_collection("mnist")


def test_a_foreign_collection_of_tfds_opens_without_preparation(tmp_path):
    write_collection(tmp_path, masks=False)
    features = io.read_json(tmp_path / "features.json")
    label = features["featuresDict"]["features"].pop("labels")["sequence"]["feature"]
    kept = {"image": features["featuresDict"]["features"]["image"], "label": label}
    io.write_json(tmp_path / "features.json", {"featuresDict": {"features": kept}})
    (tmp_path / "labels.labels.txt").rename(tmp_path / "label.labels.txt")
    name = shard_name("objects", "val", 0, 1)
    write_records(tmp_path / name, [encode_example({"image": encoded(picture()), "label": 1})])
    (record,) = open_collection(str(tmp_path)).read("val")
    assert record.image_id == f"{name}__0"
    assert (record.labels, record.height, record.width, record.orientation) == ((1,), 7, 12, 1)
    io.write_text(tmp_path / "features.json", json.dumps({"featuresDict": {"features": {"label": label}}}))
    with pytest.raises(UserError, match="lacks an `image`"):
        open_collection(str(tmp_path))


def test_ids_of_a_collection_of_others_must_be_unique(tmp_path):
    collection, records = write_collection(tmp_path)
    io.remove(tmp_path / FINGERPRINTS)
    open_collection(str(tmp_path)).check_ids("train")
    path = collection.shard_paths("train")[0]
    write_records(path, [format_example(records[0])] * 2)
    collection.check_ids("train")  # fingerprints say that wsss made it
    with pytest.raises(UserError, match=rf"`{records[0].image_id}` \(2 times\).*wsss.prepare --tfds"):
        open_collection(str(tmp_path)).check_ids("train")


def test_splits_that_share_an_id_are_not_taken_together(tmp_path):
    collection, records = write_collection(tmp_path)
    collection.check_ids("all")
    write_records(collection.shard_paths("val")[0], [format_example(records[0])])
    for split in ("train", "val"):
        collection.check_ids(split)
    with pytest.raises(UserError, match="one split at a time"):
        collection.check_ids("all")


def test_records_are_parsed_without_tensorflow(tmp_path):
    write_collection(tmp_path)
    code = (
        "import sys; from wsss.data.dataset import open_collection\n"
        f"records = list(open_collection({str(tmp_path)!r}).read('train'))\n"
        "assert records[0].image.shape == (7, 12, 3) and records[0].mask.any()\n"
        "print({'tensorflow', 'tensorflow_datasets', 'apache_beam'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.one_of(st.lists(st.binary(max_size=9)), st.lists(st.integers(-(2**63), 2**63 - 1)), st.just([])),
        max_size=4,
    )
)
def test_examples_are_tensorflows(features):
    import tensorflow as tf

    serialized = encode_example(features)
    assert decode_example(serialized) == features
    assert serialized == encode_example(dict(reversed(features.items())))
    message = tf.train.Example.FromString(serialized)
    for name, values in features.items():
        feature = message.features.feature[name]
        assert [*feature.bytes_list.value, *feature.int64_list.value] == values


def test_the_framing_is_tensorflows(tmp_path):
    import tensorflow as tf

    records = [b"", b"a", b"b" * 1000]
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    assert write_records(ours, records) == (3, 1001)
    assert list(tf.data.TFRecordDataset(ours).as_numpy_iterator()) == records
    with tf.io.TFRecordWriter(theirs) as writer:
        for record in records:
            writer.write(record)
    assert list(read_records(theirs)) == records
    assert io.read_bytes(ours) == io.read_bytes(theirs)


@pytest.mark.parametrize("damage", ["cut", "cut_header", "flip_body", "flip_header", "other"])
def test_a_damaged_shard_is_noticed(tmp_path, damage):
    path = tmp_path / "shard"
    write_records(path, [b"first record", b"second record"])
    data = bytearray(path.read_bytes())
    if damage == "flip_body":
        data[14] ^= 1
    if damage == "flip_header":
        data[2] ^= 1
    cut = {"cut": len(data) - 3, "cut_header": 12 + 12 + 4 + 5}.get(damage, len(data))
    path.write_bytes(b"something else entirely" if damage == "other" else bytes(data[:cut]))
    with pytest.raises(ValueError, match="shard"):
        list(read_records(path))


def test_an_example_that_lacks_a_feature_is_named():
    with pytest.raises(ValueError, match=r"lacks the feature `image`.*labels"):
        parse_example(encode_example({"labels": [1]}))
    with pytest.raises(ValueError, match=r"tf\.train\.Example"):
        parse_example(b"\xff\xff")
