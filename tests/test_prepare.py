"""`python -m wsss.prepare`: from a collection as users have it to shards."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.data.sources.test_folder import coco_content, voc_devkit, write
from tests.data.test_dataset import write_collection
from tests.data.test_images import encoded, oriented, picture
from wsss.common import io
from wsss.data.dataset import FINGERPRINTS, open_collection, shard_name, write_metadata
from wsss.data.images import encode_mask
from wsss.data.records import Record, format_example
from wsss.data.tfrecord import read_records, write_records
from wsss.prepare import main


def prepare(*arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code


def errors(output):
    return [json.loads(line) for line in io.read_text(output / "errors.jsonl").splitlines()]


def content(output):
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }


def faulty_folder(root):
    """Images of every kind that is refused, and four good ones, one of them turned."""
    good = encoded(picture())
    frames = [picture(seed=seed) for seed in range(2)]
    images = {
        "good": good,
        "plain": good,
        "held": good,
        "turned": oriented(6),
        "zero": b"",
        "corrupt": good[:-40],
        "text": b"this is no image",
        "cmyk": encoded(picture().convert("CMYK")),
        "deep": encoded(Image.fromarray(np.zeros((7, 12), np.uint16)), "PNG"),
        "moving": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "huge": encoded(picture(50, 60)),
        "unlabelled": good,
        "wrong": good,
        "wide_mask": good,
        "odd_mask": good,
    }
    write(root / "images", {f"{name}.jpg": data for name, data in images.items()})
    fits = encode_mask(np.full((7, 12), 2, np.uint8))
    masks = {"good": fits, "turned": encode_mask(np.ones((12, 7), np.uint8)), "plain": fits}
    masks |= {
        "wide_mask": encode_mask(np.zeros((7, 13), np.uint8)),
        "odd_mask": encode_mask(np.full((7, 12), 9, np.uint8)),
    }
    write(root / "masks", {f"{name}.png": data for name, data in masks.items()})
    rows = [
        "id,split,area,cat,dog",
        "good,train,0.5,1,1",
        "good,train,0.5,1,1",
        "plain,val,0.1,0,0",
        "missing,val,0,0,1",
    ]
    rows += ["wrong,train,0,3,0", "turned,train,0,0,1", "held,val,0,1,0"]
    rows += [
        f"{name},train,0,1,0"
        for name in images
        if name not in ("unlabelled",) and f"{name}," not in "\n".join(rows)
    ]
    write(root, {"labels.csv": "\n".join(rows)})
    return ("--images", root / "images", "--labels", root / "labels.csv", "--masks", root / "masks")


def test_what_can_be_used_is_kept_and_all_else_is_listed(tmp_path, capsys):
    source = faulty_folder(tmp_path)
    output = tmp_path / "shards"
    prepare(*source, "--output", output, "--max_pixels", 2000, "--shards", 2)
    collection = open_collection(str(output))
    assert collection.class_names == ("cat", "dog")
    assert collection.split_sizes == {"train": 2, "val": 2}
    records = {record.image_id: record for split in ("train", "val") for record in collection.read(split)}
    assert {name: record.labels for name, record in records.items()} == {
        "good": (0, 1),
        "turned": (1,),
        "plain": (),
        "held": (0,),
    }
    assert records["turned"].image_bytes == oriented(6)
    assert records["turned"].image.shape == (12, 7, 3)
    assert (records["turned"].height, records["turned"].width, records["turned"].orientation) == (12, 7, 6)
    assert (records["turned"].mask == 1).all()
    assert (records["held"].mask == 255).all()
    assert {error["id"]: error["reason"] for error in errors(output)} == {
        "zero": "zero_byte",
        "corrupt": "corrupt",
        "text": "corrupt",
        "cmyk": "cmyk",
        "deep": "sixteen_bit",
        "moving": "animated",
        "huge": "huge",
        "unlabelled": "unlabelled",
        "wrong": "wrongly_labelled",
        "wide_mask": "mask_size",
        "odd_mask": "mask_values",
        "missing": "missing",
        "good": "duplicate",
    }
    assert all(error["remedy"] and error["detail"] and error["stage"] for error in errors(output))
    summary = io.read_json(output / "summary.json")
    assert summary["images"] == 4
    assert summary["classes"] == {"cat": 2, "dog": 2}
    assert summary["refused"]["corrupt"] == 2
    assert summary["images_without_mask"] == 1
    assert summary["pixels"] == {"background": 0, "cat": 84, "dog": 168, "unknown": 84}
    printed = capsys.readouterr().out
    assert "Wrote 4 images" in printed
    assert "train 2, val 2" in printed
    assert "animated 1" in printed
    assert "columns of the table not used: area" in printed


def test_the_shards_are_a_tfds_data_set_with_the_bytes_kept(tmp_path):
    import tensorflow_datasets as tfds

    source = faulty_folder(tmp_path)
    prepare(*source, "--output", tmp_path / "shards")
    builder = tfds.builder_from_directory(tmp_path / "shards")
    raw = builder.as_dataset(split="train", decoders={"image": tfds.decode.SkipDecoding()})
    kept = {example["image_id"]: example["image"] for example in tfds.as_numpy(raw)}
    for name in (b"good", b"turned"):
        assert kept[name] == (tmp_path / "images" / f"{name.decode()}.jpg").read_bytes()
    assert builder.info.features["labels"].feature.names == ["cat", "dog"]


def test_running_twice_and_in_worker_processes_gives_the_same_bytes(tmp_path):
    source = faulty_folder(tmp_path)
    prepare(*source, "--output", tmp_path / "one", "--shards", 3)
    prepare(*source, "--output", tmp_path / "two", "--shards", 1)  # another number of shards leaves nothing
    prepare(*source, "--output", tmp_path / "two", "--shards", 3, "--runner=DirectRunner", "--overwrite")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert not (tmp_path / "one" / ".plan").exists()


@pytest.mark.slow
def test_worker_processes_write_the_same_bytes(tmp_path):
    source = faulty_folder(tmp_path)
    prepare(*source, "--output", tmp_path / "one", "--shards", 2)
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    prepare(*source, "--output", tmp_path / "two", "--shards", 2, *workers)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_split_of_which_nothing_is_left_is_no_split(tmp_path):
    write(tmp_path / "images", {"a.jpg": encoded(picture()), "b.jpg": b""})
    write(tmp_path, {"labels.csv": "id,split,cat\na,train,1\nb,val,1\n"})
    output = tmp_path / "shards"
    prepare("--images", tmp_path / "images", "--labels", tmp_path / "labels.csv", "--output", output)
    assert open_collection(str(output)).split_sizes == {"train": 1}
    assert [path.name for path in output.glob("*tfrecord*")] == ["collection-train.tfrecord-00000-of-00001"]


def test_too_many_refusals_are_exit_code_1_and_none_left_is_2(tmp_path, capsys):
    write(tmp_path / "images", {"a.jpg": encoded(picture()), "b.jpg": b""})
    write(tmp_path, {"labels.csv": "id,cat\na,1\nb,1\n", "only_b.csv": "id,cat\nb,1\n"})
    output = ("--images", tmp_path / "images", "--output", tmp_path / "shards", "--overwrite")
    prepare(*output, "--labels", tmp_path / "labels.csv", "--max_error_rate", 0.5)
    prepare(*output, "--labels", tmp_path / "labels.csv", "--max_error_rate", 0.4, code=1)
    prepare(*output, "--labels", tmp_path / "only_b.csv", code=2)
    assert capsys.readouterr().err.count("error: No image can be used") == 1
    assert [error["reason"] for error in errors(tmp_path / "shards" / ".new")] == ["unlabelled", "zero_byte"]
    assert open_collection(str(tmp_path / "shards")).split_sizes == {"train": 1}  # what was there stays


def test_a_voc_devkit_becomes_a_collection(tmp_path):
    voc_devkit(tmp_path / "VOC2012")
    prepare("--voc", tmp_path, "--output", tmp_path / "shards", "--name", "voc2012")
    collection = open_collection(str(tmp_path / "shards"))
    assert collection.name == "voc2012"
    assert collection.split_sizes == {"train": 1, "trainaug": 2, "val": 1}
    (record,) = collection.read("train")
    assert record.labels == (7, 14)
    assert (record.mask == 8).all()
    (record,) = collection.read("val")
    assert (record.mask == 255).all()


def test_coco_becomes_a_collection_and_its_missing_images_are_listed(tmp_path):
    square = {"size": [7, 12], "counts": "01c2"}  # one pixel out of 84
    annotations = [{"image_id": 8, "category_id": 3, "segmentation": square, "iscrowd": 1}]
    write(
        tmp_path,
        {
            "annotations/instances_val2017.json": coco_content(annotations=annotations),
            "val2017/000008.jpg": encoded(picture()),
        },
    )
    prepare("--coco", tmp_path, "--output", tmp_path / "shards")
    (record,) = open_collection(str(tmp_path / "shards")).read("val")
    assert record.labels == (0,)
    assert record.mask.sum() == record.mask[0, 0] == 1
    assert [(error["id"], error["reason"]) for error in errors(tmp_path / "shards")] == [
        ("000007", "missing")
    ]


def test_a_tfds_data_set_is_converted(tmp_path):
    _, records = write_collection(tmp_path / "objects")
    prepare("--tfds", tmp_path / "objects", "--output", tmp_path / "shards")
    collection = open_collection(str(tmp_path / "shards"))
    assert [*collection.read("train"), *collection.read("val")] == records
    assert len(collection.shard_paths("train")) == 2


def test_another_data_set_in_the_folder_is_not_replaced(tmp_path, capsys):
    source = faulty_folder(tmp_path)
    write_collection(tmp_path / "objects")
    before = content(tmp_path / "objects")
    prepare(*source, "--output", tmp_path / "objects", code=2)
    assert "holds the data set `objects`" in capsys.readouterr().err
    prepare(*source, "--output", tmp_path / "objects", "--overwrite", code=2)
    assert content(tmp_path / "objects") == before


@pytest.mark.parametrize("spelling", ["objects", "./objects/", "link", "other/../objects"])
def test_the_source_is_never_the_output(tmp_path, monkeypatch, capsys, spelling):
    write_collection(tmp_path / "objects")
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("objects")
    monkeypatch.chdir(tmp_path)
    before = content(tmp_path / "objects")
    prepare("--tfds", "objects", "--output", spelling, "--overwrite", code=2)
    assert "is also the input" in capsys.readouterr().err
    assert content(tmp_path / "objects") == before


def test_a_finished_collection_stays_until_another_one_is_complete(tmp_path, capsys):
    source = faulty_folder(tmp_path)
    prepare(*source, "--output", tmp_path / "shards")
    before = content(tmp_path / "shards")
    prepare(*source, "--output", tmp_path / "shards", code=2)
    assert "`--overwrite`" in capsys.readouterr().err
    prepare("--voc", tmp_path / "nowhere", "--output", tmp_path / "shards", "--overwrite", code=2)
    assert content(tmp_path / "shards") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give one source"),
        (["--images", "a"], "needs `--labels`"),
        (["--voc", "a", "--coco", "b"], "Received: --voc, --coco"),
        (["--voc", "a", "--masks", "b"], "`--masks` goes with `--images`"),
        (["--tfds", "a", "--shards", "2"], "`--shards` does not go"),
        (["--voc", "a", "--name", "My Data"], "`--name`"),
        (["--voc", "nowhere"], "devkit"),
        (["--voc", "a", "--direct_num_worker", "2"], "direct_num_workers"),
        (["--voc", "a", "--runner", "Spam"], "`--runner`"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    prepare(*arguments, "--output", tmp_path / "shards", code=2)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("flag", [["--val_fraction", "1"], ["--shards", "0"], ["--max_pixels", "many"]])
def test_a_value_out_of_range_names_the_rule(tmp_path, capsys, flag):
    assert main(["--voc", "a", "--output", str(tmp_path), *flag]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert flag[0] in line
    assert "must be" in line


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "classes", "sizes"),
    [("voc2012_mini148", 20, {"train": 72, "val": 76}), ("msrc_v2", 15, {"train": 357, "val": 234})],
)
def test_the_photographs_are_prepared_without_a_refusal(tmp_path, shared_data, name, classes, sizes):
    folder = shared_data / name
    parts = {"--images": "images", "--labels": "labels.csv", "--masks": "masks", "--classes": "classes.txt"}
    arguments = [item for flag, part in parts.items() for item in (flag, folder / part)]
    prepare(*arguments, "--output", tmp_path / "shards")
    collection = open_collection(str(tmp_path / "shards"))
    assert len(collection.class_names) == classes
    assert collection.split_sizes == sizes
    assert errors(tmp_path / "shards") == []
    for record in collection.read("val"):
        assert record.image_bytes == (folder / "images" / f"{record.image_id}.jpg").read_bytes()
        shown = {label + 1 for label in record.labels}
        assert shown <= set(range(1, classes + 1))
        assert set(np.unique(record.mask)) - {0, 255} <= shown


@pytest.mark.parametrize("source", ["images", "labels", "coco", "voc", "tfds", "classes"])
def test_more_classes_than_a_mask_has_numbers_are_refused_before_anything_is_written(
    tmp_path, capsys, source
):
    names = [f"c{index:03d}" for index in range(300)]
    write(tmp_path / "images", {"a.jpg": encoded(picture())})
    tables = {
        "images": f"id,{','.join(names)}\na,{','.join('1' * 300)}\n",
        "labels": f'id,labels\na,"{";".join(names)}"\n',
        "classes": "id,labels\na,c000\n",
    }
    write(tmp_path, {"tags.csv": tables.get(source, "id,cat\na,1\n"), "classes.txt": "\n".join(names)})
    arguments = ["--images", tmp_path / "images", "--labels", tmp_path / "tags.csv"]
    if source == "classes":
        arguments += ["--classes", tmp_path / "classes.txt"]
    if source == "coco":
        content = {
            "images": [{"id": 1, "file_name": "a.jpg", "height": 7, "width": 12}],
            "annotations": [{"image_id": 1, "category_id": 1, "segmentation": []}],
            "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
        }
        write(tmp_path / "coco", {"annotations/instances_train.json": json.dumps(content)})
        arguments = ["--coco", tmp_path / "coco"]
    if source == "voc":
        objects = "".join(f"<object><name>{name}</name></object>" for name in names)
        devkit = {
            "ImageSets/Main/train.txt": "a\n",
            "Annotations/a.xml": f"<annotation>{objects}</annotation>",
            "JPEGImages/a.jpg": encoded(picture()),
        }
        write(tmp_path / "voc", devkit)
        arguments = ["--voc", tmp_path / "voc"]
    if source == "tfds":
        write_collection(tmp_path / "tfds")
        write(tmp_path / "tfds", {"labels.labels.txt": "\n".join(names)})
        arguments = ["--tfds", tmp_path / "tfds"]
    prepare(*arguments, "--output", tmp_path / "out", code=2)
    error = capsys.readouterr().err
    assert "300 classes" in error
    assert "254" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_254_classes_are_possible(tmp_path):
    names = [f"c{index:03d}" for index in range(254)]
    mask = encode_mask(np.full((7, 12), 254, np.uint8))
    write(tmp_path / "images", {"a.jpg": encoded(picture())})
    write(tmp_path / "masks", {"a.png": mask})
    write(tmp_path, {"tags.csv": "id,labels\na,c253\n", "classes.txt": "\n".join(names)})
    prepare(
        *("--images", tmp_path / "images", "--labels", tmp_path / "tags.csv"),
        *("--masks", tmp_path / "masks", "--classes", tmp_path / "classes.txt", "--output", tmp_path / "out"),
    )
    (record,) = open_collection(tmp_path / "out").read("train")
    assert record.labels == (253,)
    assert (record.mask == 254).all()


def test_a_class_that_no_mask_shows_is_noted_and_classes_may_be_given_for_a_devkit(tmp_path, capsys):
    voc_devkit(tmp_path / "voc")
    write(tmp_path, {"classes.txt": "\n".join(f"c{index}" for index in range(7)) + "\ncat\nperson\ndog\n"})
    arguments = ("--voc", tmp_path / "voc", "--classes", tmp_path / "classes.txt")
    prepare(*arguments, "--output", tmp_path / "out")
    assert "note: class person is a tag, but no mask shows it" in capsys.readouterr().out
    assert open_collection(tmp_path / "out").class_names[7:] == ("cat", "person", "dog")


def test_masks_that_contradict_the_tags_are_refused_before_anything_is_written(tmp_path, capsys):
    write(tmp_path / "images", {"a.jpg": encoded(picture()), "b.jpg": encoded(picture())})
    masks = {
        f"{name}.png": encode_mask(np.full((7, 12), number, np.uint8))
        for name, number in (("a", 2), ("b", 1))
    }
    write(tmp_path / "masks", masks)
    write(tmp_path, {"tags.csv": "id,cow,tractor\na,1,0\nb,0,1\n"})
    arguments = (
        "--images",
        tmp_path / "images",
        "--labels",
        tmp_path / "tags.csv",
        "--masks",
        tmp_path / "masks",
    )
    prepare(*arguments, "--output", tmp_path / "out", code=2)
    assert "2 of 2 images contradict" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def tfds_collection(directory, *shards, classes=("cat", "dog"), masks=None):
    """A collection of shards of `(image id, labels)`, as TFDS writes it; masks by the image's id."""
    lengths, size = [len(shard) for shard in shards], 0
    for index, shard in enumerate(shards):
        records = [
            Record(image_id, encoded(picture()), labels, 7, 12, mask_bytes=masks and masks[image_id])
            for image_id, labels in shard
        ]
        path = directory / shard_name("objects", "train", index, len(shards))
        size += write_records(path, map(format_example, records))[1]
    write_metadata(
        str(directory),
        name="objects",
        class_names=classes,
        shard_lengths={"train": lengths},
        split_bytes={"train": size},
        has_masks=bool(masks),
    )
    (directory / FINGERPRINTS).unlink()


def test_masks_of_a_tfds_data_set_are_read_as_they_are_coded(tmp_path, capsys):
    mask = np.zeros((7, 12), np.uint8)
    mask[2:5, 3:] = 255
    masks = {"a": encode_mask(mask), "b": encode_mask(0 * mask)}
    tfds_collection(tmp_path / "in", [("a", (0,))], [("b", ())], classes=("cat",), masks=masks)
    prepare("--tfds", tmp_path / "in", "--output", tmp_path / "out")
    assert "masks hold 255 where they show the only class, cat" in capsys.readouterr().out
    first, second = open_collection(tmp_path / "out").read("train")
    np.testing.assert_array_equal(first.mask, mask // 255)
    np.testing.assert_array_equal(second.mask, 0 * mask)


def test_masks_of_a_tfds_data_set_that_contradict_its_tags_are_refused(tmp_path, capsys):
    masks = {name: encode_mask(np.full((7, 12), number, np.uint8)) for name, number in (("a", 2), ("b", 1))}
    tfds_collection(tmp_path / "in", [("a", (0,)), ("b", (1,))], masks=masks)
    prepare("--tfds", tmp_path / "in", "--output", tmp_path / "out", code=2)
    assert "2 of 2 images contradict" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_image_ids_that_occur_again_are_made_unique_and_counted(tmp_path, capsys):
    shards = [[("same", ()), ("other", ()), ("same", (0,))], [("same", (1,)), ("same__2", ()), ("x", ())]]
    tfds_collection(tmp_path / "in", *shards)
    prepare("--tfds", tmp_path / "in", "--output", tmp_path / "out")
    records = list(open_collection(tmp_path / "out").read("train"))
    assert [record.image_id for record in records] == ["same", "other", "same__3", "same__4", "same__2", "x"]
    assert [record.labels for record in records] == [(), (), (0,), (1,), (), ()]
    assert "made unique as ID__2: 2, such as same" in capsys.readouterr().out


def test_fewer_records_than_the_metadata_says_are_noticed(tmp_path):
    tfds_collection(tmp_path / "in", [("a", ()), ("b", ())], [("c", ())])
    first, second = sorted((tmp_path / "in").glob("*tfrecord*"))
    records = list(read_records(first))
    write_records(first, records[:1])
    second.unlink()
    prepare("--tfds", tmp_path / "in", "--output", tmp_path / "out")
    assert open_collection(tmp_path / "out").split_sizes == {"train": 1}
    listed = {(error["id"], error["reason"]): error["detail"] for error in errors(tmp_path / "out")}
    assert listed[first.name, "wrong_count"] == "It gave 1 records; the metadata says 2."
    assert (second.name, "missing") in listed


def test_labels_beyond_the_classes_are_counted_and_listed(tmp_path):
    tfds_collection(tmp_path / "in", [("a", (0,)), ("b", (1, 7)), ("c", (1,))])
    prepare("--tfds", tmp_path / "in", "--output", tmp_path / "out")
    assert [record.image_id for record in open_collection(tmp_path / "out").read("train")] == ["a", "c"]
    (error,) = errors(tmp_path / "out")
    assert "Image b has the label 7, beyond the 2 classes 0..1." in error["detail"]
    assert io.read_json(tmp_path / "out" / "summary.json")["refused"] == {"wrongly_labelled": 1}
