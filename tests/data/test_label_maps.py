"""Label maps of a folder, joined with the images of a collection by id."""

import dataclasses

import numpy as np
import pytest

from wsss.common import io
from wsss.common.errors import UserError
from wsss.common.file_names import file_name
from wsss.data.dataset import open_collection
from wsss.data.images import BadImage, encode_mask
from wsss.data.label_maps import open_label_maps
from wsss.data.loader import training_dataset
from wsss.data.synthetic import write_synthetic_collection

SIZE = 40


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return write_synthetic_collection(str(tmp_path_factory.mktemp("data")), images=10, size=SIZE, classes=2)


def write_maps(folder, collection, leave_out=()):
    """Label maps unlike the true masks: the left half of each image is class 2."""
    label_map = np.zeros((SIZE, SIZE), np.uint8)
    label_map[:, : SIZE // 2] = 2
    for record in collection.read("train"):
        if record.image_id not in leave_out:
            io.write_bytes(io.join(str(folder), f"{file_name(record.image_id)}.png"), encode_mask(label_map))
    return label_map


def open_maps(folder, collection):
    return open_label_maps(str(folder), collection, "train")


def test_label_maps_are_read_by_id(tmp_path, collection):
    label_map = write_maps(tmp_path, collection)
    maps = open_maps(tmp_path, collection)
    for record in collection.read("train"):
        np.testing.assert_array_equal(maps.read(record.image_id), label_map)


@pytest.mark.parametrize("image_id", ["a/b", "c:d", "x" * 300])
def test_ids_that_are_no_file_names_find_their_files(tmp_path, collection, image_id):
    write_maps(tmp_path, collection)
    io.write_bytes(tmp_path / f"{file_name(image_id)}.png", encode_mask(np.ones((2, 3), np.uint8)))
    assert open_maps(tmp_path, collection).read(image_id).shape == (2, 3)


def test_the_output_of_pseudo_labels_keeps_its_masks_in_a_folder(tmp_path, collection):
    write_maps(tmp_path / "masks", collection)
    io.write_bytes(tmp_path / "previews" / "other.png", encode_mask(np.ones((2, 3), np.uint8)))
    io.write_json(tmp_path / "options.json", {"class_names": list(collection.class_names)})
    assert "previews/other" not in open_maps(tmp_path, collection).paths
    io.write_json(tmp_path / "options.json", {"class_names": ["dog", "cat"]})
    with pytest.raises(UserError, match="other classes"):
        open_maps(tmp_path, collection)


def test_training_sees_the_label_maps_and_not_the_masks(tmp_path, collection):
    write_maps(tmp_path, collection)
    with_maps = dataclasses.replace(collection, label_maps=open_maps(tmp_path, collection))
    plain = {"batch_size": 4, "image_size": SIZE, "augmentation": "none", "targets": "masks", "epochs": 1}
    for _, label_maps in training_dataset(with_maps, "train", **plain):
        assert (label_maps.numpy()[:, :, : SIZE // 2] == 2).all()
        assert (label_maps.numpy()[:, :, SIZE // 2 :] == 0).all()


def test_images_without_a_usable_label_map_are_skipped_and_named(tmp_path, collection, caplog):
    missing, wide, strange = [record.image_id for record in collection.read("train")][:3]
    write_maps(tmp_path, collection, leave_out=[missing])
    io.write_bytes(tmp_path / f"{wide}.png", encode_mask(np.zeros((SIZE, SIZE + 1), np.uint8)))
    io.write_bytes(tmp_path / f"{strange}.png", encode_mask(np.full((SIZE, SIZE), 3, np.uint8)))
    with_maps = dataclasses.replace(collection, label_maps=open_maps(tmp_path, collection))
    plain = {"batch_size": 4, "image_size": SIZE, "augmentation": "none", "targets": "masks", "epochs": 1}
    batches = list(training_dataset(with_maps, "train", **plain))
    assert len(batches) == 2  # the epoch is full all the same
    assert {message.split("`")[1] for message in caplog.messages} == {missing, wide, strange}
    with pytest.raises(BadImage, match="no label map"):
        with_maps.label_maps.read(missing)


def test_a_changed_map_changes_the_fingerprint(tmp_path, collection):
    write_maps(tmp_path, collection)
    before = open_maps(tmp_path, collection).fingerprint()
    assert open_maps(tmp_path, collection).fingerprint() == before
    first = next(collection.read("train")).image_id
    io.write_bytes(tmp_path / f"{first}.png", encode_mask(np.ones((SIZE, SIZE), np.uint8)))
    assert open_maps(tmp_path, collection).fingerprint() != before


def test_folders_without_label_maps_of_the_images_are_refused(tmp_path, collection):
    with pytest.raises(UserError, match="There is no folder"):
        open_maps(tmp_path / "nowhere", collection)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no label maps"):
        open_maps(tmp_path / "empty", collection)
    io.write_bytes(tmp_path / "others" / "scene.png", encode_mask(np.ones((2, 3), np.uint8)))
    with pytest.raises(UserError, match="there is scene, but not "):
        open_maps(tmp_path / "others", collection)
    with pytest.raises(UserError, match="pass it as `--data`"):
        open_maps(collection.directory, collection)


def test_images_without_ids_cannot_be_joined(tmp_path, collection):
    write_maps(tmp_path, collection)
    without = dataclasses.replace(collection, keys=dataclasses.replace(collection.keys, image_id=None))
    with pytest.raises(UserError, match="have no ids"):
        open_maps(tmp_path, without)
    assert open_collection(collection.directory).label_maps is None
