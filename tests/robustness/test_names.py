"""Names of images: the outputs of each have names that every file system takes, and no two the same."""

import io as bytes_io
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_images import encoded, picture
from wsss.common import io
from wsss.common.file_names import file_name, image_id_of
from wsss.data.dataset import open_collection, shard_name, write_metadata
from wsss.data.images import encode_mask
from wsss.data.records import Record, format_example
from wsss.data.tfrecord import write_records
from wsss.pipeline.evaluation import evaluate, open_masks
from wsss.pipeline.output import Layout
from wsss.prepare import main

IDS = ["漢" * 70, ":" * 90, "漢" * 300, "a/" * 900 + "b", "x" * 199, "x" * 200, "x" * 201, "\udcff", "\ud800"]


@pytest.mark.parametrize("image_id", IDS)
def test_outputs_of_every_id_can_be_written(tmp_path, image_id):
    layout = Layout(str(tmp_path))
    for path in (layout.mask(image_id), layout.scores(image_id), layout.preview(image_id)):
        io.write_bytes(path, b"content")
        assert io.read_bytes(path) == b"content"


def test_an_image_and_a_folder_of_one_name_do_not_collide(tmp_path):
    layout = Layout(str(tmp_path))
    for image_id in ("a", "a.png/b", "a.PNG/c", "a.npz/d", "a.png", "a.png/a.png/b"):
        io.write_bytes(layout.mask(image_id), image_id.encode())
        io.write_bytes(layout.scores(image_id), image_id.encode())
        assert image_id_of(file_name(image_id)) == image_id
    assert io.read_bytes(layout.mask("a")) == b"a"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=300), min_size=2, max_size=2, unique=True))
def test_different_ids_have_different_names_that_are_bounded(image_ids):
    one, two = map(file_name, image_ids)
    assert one != two
    for name, image_id in zip((one, two), image_ids):
        assert all(len(part.encode()) <= 200 for part in name.split("/"))
        assert image_id_of(name) == image_id or "%~" in name


def test_ids_that_begin_alike_differ_after_the_cut():
    names = {file_name("漢" * 100 + str(index)) for index in range(50)}
    assert len(names) == 50
    assert file_name(f"{'y' * 300}/a").split("/")[1] == "a"


def write_collection_of(directory, record):
    path = io.join(str(directory), shard_name("one", "train", 0, 1))
    size = write_records(path, [format_example(record)])[1]
    return write_metadata(
        str(directory),
        name="one",
        class_names=("cat",),
        shard_lengths={"train": (1,)},
        split_bytes={"train": size},
        has_masks=True,
    )


def test_a_folder_with_names_of_all_kinds_becomes_a_collection(tmp_path):
    names = [
        "漢" * 70,
        "a",
        "a.jpg.jpg",
        os.fsdecode(b"caf\xe9"),
        "line\nbreak",
        " blank ",
        "%41",
        "back\\slash",
    ]
    for name in names:
        io.write_bytes(tmp_path / "photos" / f"{name}.jpg", encoded(picture()))
    io.write_bytes(tmp_path / "photos" / "a.png" / "inside.jpg", encoded(picture()))
    os.symlink(tmp_path / "photos", tmp_path / "photos" / "circle", target_is_directory=True)
    table = bytes_io.StringIO()
    table.write("id,cat\n" + "".join(f'"{name}",1\n' for name in names if name.isprintable()))
    table.write("a.png/inside,1\ncaf\\xe9,1\n")
    io.write_text(tmp_path / "tags.csv", table.getvalue())
    output = tmp_path / "out"
    arguments = ("--images", tmp_path / "photos", "--labels", tmp_path / "tags.csv", "--output", output)
    assert main([str(argument) for argument in arguments]) == 0
    ids = {record.image_id for record in open_collection(str(output)).read("train")}
    listed = [json.loads(line) for line in io.read_text(output / "errors.jsonl").splitlines()]
    assert {"漢" * 70, "a", "a.jpg.jpg", r"caf\xe9", "a.png/inside", "%41"} <= ids
    assert {(line["id"], line["reason"]) for line in listed} >= {("circle", "link_loop")}


def test_masks_of_long_ids_are_found_when_evaluated(tmp_path):
    image_id = "漢" * 100
    mask = encode_mask(np.ones((7, 12), np.uint8))
    write_collection_of(tmp_path / "shards", Record(image_id, encoded(picture()), (0,), 7, 12, 1, mask))
    io.write_bytes(tmp_path / "masks" / f"{file_name(image_id)}.png", mask)
    truth, predictions = open_masks(str(tmp_path / "shards")), open_masks(str(tmp_path / "masks"))
    assert evaluate(predictions, truth, 2).compared == 1
