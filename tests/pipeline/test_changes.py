"""Inputs that changed between two runs: what changed is labeled again, what is gone is removed."""

import json
from dataclasses import replace

import pytest

from tests.pseudo_label_cases import corrupt, label, make_records, tree, write_collection
from wsss.common import io
from wsss.data.dataset import open_collection
from wsss.data.images import decode_mask


def masks(folder):
    return {name: content for name, content in tree(folder).items() if name.startswith("masks/")}


def write_images(folder, records):
    for record in records:
        io.write_bytes(str(folder / f"{record.image_id}.png"), record.image_bytes)


@pytest.fixture
def on_folder(run, tmp_path):
    """Labels the folder of images at `tmp_path`; gives the exit code."""
    flags = ("--data", str(tmp_path / "images"), "--image_labels", "predicted", "--label_threshold", "0.4")
    return lambda *more: label(tmp_path / "labels", run, *flags, "--images_per_shard", "3", *more)


@pytest.mark.parametrize("output_format", ["png", "tfrecord"])
def test_new_tags_of_as_many_records_are_labeled_anew(run, records, tmp_path, capsys, output_format):
    flags = ("--data", str(tmp_path / "data"), "--output_format", output_format)
    write_collection(str(tmp_path / "data"), records)
    assert label(tmp_path / "labels", run, *flags) == 0
    write_collection(str(tmp_path / "data"), [replace(records[0], labels=(1,)), *records[1:]])
    assert label(tmp_path / "labels", run, *flags) == 0
    assert "2 of 3 shards are done already" in capsys.readouterr().out
    assert label(tmp_path / "anew", run, *flags) == 0
    assert tree(tmp_path / "labels") == tree(tmp_path / "anew")


def test_masks_of_removed_images_are_removed_and_foreign_files_stay(on_folder, records, tmp_path):
    write_images(tmp_path / "images", records[:6])
    assert on_folder() == 0
    assert len(masks(tmp_path / "labels")) == 6
    foreign = tmp_path / "labels" / "masks" / "mine.png"
    foreign.write_bytes(b"drawn by hand")
    (tmp_path / "images" / "image_02.png").unlink()
    (tmp_path / "images" / "image_03.png").write_bytes(records[7].image_bytes)
    assert on_folder() == 0
    assert foreign.read_bytes() == b"drawn by hand"
    assert sorted(masks(tmp_path / "labels")) == [
        *(f"masks/image_{index:02d}.png" for index in (0, 1, 3, 4, 5)),
        "masks/mine.png",
    ]
    replaced = decode_mask((tmp_path / "labels" / "masks" / "image_03.png").read_bytes())
    assert replaced.shape == (records[7].height, records[7].width)
    assert not (tmp_path / "labels" / "retired.json").exists()


def test_record_files_of_another_division_are_removed(on_folder, records, tmp_path):
    write_images(tmp_path / "images", records[:7])
    assert on_folder("--output_format", "tfrecord") == 0
    for record in records[3:7]:
        (tmp_path / "images" / f"{record.image_id}.png").unlink()
    assert on_folder("--output_format", "tfrecord") == 0
    labels = tmp_path / "labels"
    assert [path.name for path in labels.glob("*.tfrecord-*")] == [
        "pseudo_labels-train.tfrecord-00000-of-00001"
    ]
    ids = [record.image_id for record in open_collection(str(labels)).read("train")]
    assert sorted(ids) == [record.image_id for record in records[:3]]


def test_a_shard_that_was_missing_is_labeled_when_it_is_back(labels, run, records, tmp_path):
    write_collection(str(tmp_path / "data"), records)
    shard = tmp_path / "data" / "tiny-train.tfrecord-00001-of-00003"
    content = shard.read_bytes()
    shard.unlink()
    flags = ("--data", str(tmp_path / "data"), "--max_error_rate", "1")
    assert label(tmp_path / "labels", run, *flags) == 0
    assert len(masks(tmp_path / "labels")) == 8
    errors = (tmp_path / "labels" / "errors.jsonl").read_text().splitlines()
    assert [json.loads(line)["transient"] for line in errors] == [True] * 4
    shard.write_bytes(content)
    assert label(tmp_path / "labels", run, *flags) == 0
    assert masks(tmp_path / "labels") == masks(labels)
    assert (tmp_path / "labels" / "errors.jsonl").read_text() == ""


def test_a_damaged_image_is_not_tried_again(run, records, tmp_path, capsys):
    write_collection(str(tmp_path / "data"), [corrupt(records[0]), *records[1:]])
    for _ in range(2):
        assert label(tmp_path / "labels", run, "--data", str(tmp_path / "data")) == 0
    assert "3 of 3 shards are done already" in capsys.readouterr().out


def test_images_that_ran_out_of_memory_are_tried_again(labels, run, data, tmp_path, monkeypatch, capsys):
    from wsss.inference.predictor import CamPredictor

    predict = CamPredictor.predict
    poison = decode_shape(make_records()[3])

    def without_memory(self, images):
        if images[0].shape == poison:
            raise MemoryError
        return predict(self, images)

    with monkeypatch.context() as patched:
        patched.setattr(CamPredictor, "predict", without_memory)
        assert label(tmp_path, run, "--data", data, "--max_error_rate", "1") == 0
    assert len(masks(tmp_path)) == 9
    assert label(tmp_path, run, "--data", data) == 0
    assert masks(tmp_path) == masks(labels)
    assert "12 images labeled, 0 failed" in capsys.readouterr().out


def decode_shape(record):
    return (record.height, record.width, 3)


def test_a_threshold_of_outdated_images_is_chosen_anew(on_folder, records, tmp_path):
    write_images(tmp_path / "images", records[:2])
    assert on_folder("--background_threshold", "auto") == 0
    first = json.loads((tmp_path / "labels" / "threshold.json").read_text())
    write_images(tmp_path / "images", make_records(4, seed=1))
    assert on_folder("--background_threshold", "auto") == 0
    assert json.loads((tmp_path / "labels" / "threshold.json").read_text()) != first


def test_a_mask_that_the_user_adds_is_neither_removed_nor_replaced(on_folder, records, tmp_path, capsys):
    write_images(tmp_path / "images", [*records[:4], corrupt(records[4])])
    assert on_folder() == 0
    labels = tmp_path / "labels"
    drawn = [labels / "masks" / f"{name}.png" for name in ("notes", records[4].image_id)]
    for path in drawn:
        path.write_bytes(b"drawn by hand")
    assert on_folder("--overwrite", "--background_alpha", "4") == 0  # its image still gives no mask
    assert [path.read_bytes() for path in drawn] == [b"drawn by hand"] * 2
    write_images(tmp_path / "images", records[4:5])
    capsys.readouterr()
    for _ in range(2):  # the second finds an interrupted run
        assert on_folder("--background_alpha", "4") == 2
        assert f"{drawn[1]} was not written by wsss" in capsys.readouterr().err
    assert [path.read_bytes() for path in drawn] == [b"drawn by hand"] * 2
    drawn[1].unlink()
    assert on_folder("--background_alpha", "4") == 0
    assert len(masks(labels)) == 6


def test_labels_of_added_images_that_were_interrupted_are_ours(on_folder, records, tmp_path, monkeypatch):
    write_images(tmp_path / "images", records[:3])
    assert on_folder() == 0
    write_images(tmp_path / "images", records[3:9])
    write = io.write_json

    def stop(path, value):
        if "/manifests/" in str(path):
            raise KeyboardInterrupt
        write(path, value)

    with monkeypatch.context() as patched:
        patched.setattr(io, "write_json", stop)
        assert on_folder() == 130
    assert on_folder() == 0
    assert len(masks(tmp_path / "labels")) == 9
