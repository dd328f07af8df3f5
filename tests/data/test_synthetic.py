"""`wsss.data.synthetic`: the drawn collection."""

import numpy as np
import pytest

from wsss.common import io
from wsss.data.synthetic import CLASS_NAMES, draw_scene, write_synthetic_collection


def test_the_collection_is_whole_and_its_tags_are_those_of_its_masks(tmp_path):
    collection = write_synthetic_collection(tmp_path, images=11, size=48, classes=3)
    assert collection.split_sizes == {"train": 9, "val": 2}
    assert collection.class_names == CLASS_NAMES[:3]
    assert collection.has_masks
    ids = set()
    for split in collection.split_sizes:
        for record in collection.read(split):
            ids.add(record.image_id)
            assert record.image.shape == (48, 48, 3)
            assert set(np.unique(record.mask)) - {0} == {label + 1 for label in record.labels}
            assert 1 <= len(record.labels) <= 3
    assert len(ids) == 11


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    contents = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        write_synthetic_collection(tmp_path / name, images=4, size=32, seed=seed)
        paths = io.list_files(tmp_path / name / "*")
        contents.append({path.rsplit("/")[-1]: io.read_bytes(path) for path in paths})
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_every_class_appears_and_none_covers_the_scene():
    masks = [draw_scene(np.random.default_rng(number), 48, 6)[1] for number in range(60)]
    assert set(np.unique(masks)) == set(range(7))
    assert max((mask > 0).mean() for mask in masks) < 0.9


@pytest.mark.parametrize("wrong", [{"images": 1}, {"size": 8}, {"classes": 7}, {"classes": 0}])
def test_sizes_that_make_no_sense_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        write_synthetic_collection(tmp_path, **wrong)
