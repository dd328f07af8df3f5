"""A plain folder of images with a table of their tags: labeled as a collection with the same tags."""

import csv
import json

import pytest

from tests.pseudo_label_cases import CLASS_NAMES, label, tree, write_collection
from wsss.common import io
from wsss.common.errors import UserError
from wsss.pipeline.image_tags import ImageTags
from wsss.pipeline.options import LabelOptions
from wsss.pipeline.output import Layout
from wsss.pipeline.stages.plan_files import read_plan, write_plans
from wsss.pipeline.stages.read import open_images


@pytest.fixture
def folder(tmp_path, records):
    """A folder of the images of all records, and a table of the tags of all but the last."""
    for record in records:
        io.write_bytes(str(tmp_path / "images" / f"{record.image_id}.png"), record.image_bytes)
    write_table(tmp_path, {record.image_id: record.labels for record in records[:-1]})
    return tmp_path


def write_table(folder, tags, names=CLASS_NAMES):
    rows = [f"{name}.png,{';'.join(names[index] for index in labels)}\n" for name, labels in tags.items()]
    (folder / "tags.csv").write_text("id,labels\n" + "".join(rows))


def on_folder(folder, run, *flags, output="labels"):
    data = ("--data", str(folder / "images"), "--labels", str(folder / "tags.csv"))
    return label(folder / output, run, *data, "--images_per_shard=4", *flags)


def rows(folder):
    with open(folder / "images.csv", encoding="utf-8", newline="") as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


def errors(folder):
    return [json.loads(line) for line in (folder / "errors.jsonl").read_text().splitlines()]


def test_images_are_labeled_with_the_tags_of_the_table(folder, run, labels, records):
    assert on_folder(folder, run) == 0
    of_collection, of_folder = rows(labels), rows(folder / "labels")
    for record in records[:-1]:
        assert of_folder[record.image_id]["tags"] == of_collection[record.image_id]["tags"]
    masks = {name: content for name, content in tree(folder / "labels").items() if name.startswith("masks")}
    assert len(masks) == 11
    same = sum(tree(labels)[name] == content for name, content in masks.items())
    assert same >= 9  # batches of other images may round otherwise
    (failed,) = errors(folder / "labels")
    assert (failed["id"], failed["stage"], failed["transient"]) == (records[-1].image_id, "read", False)
    assert "the table of labels has no row of it" in failed["reason"]


def test_other_tags_are_labeled_anew_and_the_same_ones_are_not(folder, run, records, capsys):
    assert on_folder(folder, run) == 0
    before = tree(folder / "labels")
    assert on_folder(folder, run) == 0
    assert "3 of 3 shards are done already" in capsys.readouterr().out
    write_table(folder, {record.image_id: record.labels for record in records})
    assert on_folder(folder, run) == 0
    assert "2 of 3 shards are done already" in capsys.readouterr().out
    assert errors(folder / "labels") == []
    now = tree(folder / "labels")
    assert {name for name in now if name.startswith("masks")} > {
        name for name in before if name.startswith("masks")
    }


def test_a_plan_file_carries_the_tags(folder, records):
    tags = ImageTags(str(folder / "tags.csv"), CLASS_NAMES)
    images = open_images(str(folder / "images"), "train", images_per_shard=4, tags=tags)
    shards = list(images.with_paths(images.shards))
    (plan,) = write_plans(shards, Layout(str(folder / "out")))
    assert list(read_plan(plan)) == shards
    found = {
        name: each for s in shards for (name, _), each in zip(s.image_paths, s.image_labels, strict=True)
    }
    expected = {record.image_id: record.labels for record in records[:-1]}
    assert found == {**expected, records[-1].image_id: None}


def test_rows_that_disagree_are_no_tags_and_strange_ones_are_named(folder, records, caplog):
    table = folder / "tags.csv"
    table.write_text(table.read_text() + "image_00.png,cow\nimage_02.png,dragon\nelsewhere.png,cat\n")
    tags = ImageTags(str(table), CLASS_NAMES)
    open_images(str(folder / "images"), "train", tags=tags)
    assert tags.of("image_00.png", "image_00") is None  # it has no class in the other row
    assert tags.of("image_01.png", "image_01") == records[1].labels
    assert "1 rows that cannot be used, such as image_02.png" in caplog.text
    assert "1 rows of images that are not there, such as elsewhere.png." in caplog.text


def test_mistakes_are_one_line(folder, run, records, capsys):
    def last_line(code):
        assert code == 2
        return capsys.readouterr().err.splitlines()[-1]

    write_collection(str(folder / "data"), records)
    table = ("--labels", str(folder / "tags.csv"))
    assert "goes with a folder of images" in last_line(
        label(folder / "labels", run, "--data", str(folder / "data"), *table)
    )
    assert "pass their table, `--labels tags.csv`" in last_line(
        label(folder / "labels", run, "--data", str(folder / "images"))
    )
    assert "leave out `--image_labels predicted`" in last_line(
        on_folder(folder, run, "--image_labels", "predicted")
    )
    write_table(folder, {"other": (0,)})
    assert "has no row of an image in the folder, such as other" in last_line(on_folder(folder, run))
    (folder / "tags.csv").write_text("id,labels,height\n")
    assert "tags.csv" in last_line(on_folder(folder, run))
    (folder / "tags.csv").unlink()
    assert "`--labels` must be a readable file" in last_line(on_folder(folder, run))
    with pytest.raises(UserError, match="--labels"):
        LabelOptions(labels="tags.csv", image_labels="predicted")
