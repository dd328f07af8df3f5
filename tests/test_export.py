"""`python -m wsss.export`: each format is read back by `prepare` with the same masks."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.data.test_dataset import write_collection
from tests.data.test_images import encoded, oriented, picture
from wsss import export_masks
from wsss.common import io
from wsss.common.errors import UserError
from wsss.data.dataset import open_collection
from wsss.data.images import decode_mask, encode_mask, voc_palette
from wsss.export import main
from wsss.pipeline.export import TARGETS
from wsss.prepare import main as prepare

NAMES = ("cat", "dog", "7")


def scene(size, seed=0):
    """Blocks of the background, of all classes and of unknown pixels."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice([0, 1, 2, 3, 255], (7, 7))
    return np.kron(blocks, np.ones((2, 2)))[: size[0], : size[1]].astype(np.uint8)


@pytest.fixture
def photographs(tmp_path):
    """A folder of images, one turned, one in a sub-folder; and label maps of all but one."""
    images = {
        "a.jpg": encoded(picture(seed=1)),
        "sub/b c.png": encoded(picture(seed=2), "PNG"),
        "turned.jpg": oriented(6),
        "unlabeled.jpg": encoded(picture(seed=3)),
    }
    masks = {"a": scene((7, 12), 1), "sub/b c": scene((7, 12), 2), "turned": scene((12, 7), 3)}
    for name, data in images.items():
        io.write_bytes(tmp_path / "images" / name, data)
    for name, mask in masks.items():
        io.write_bytes(tmp_path / "labels" / "masks" / f"{name}.png", encode_mask(mask, voc_palette()))
    settings = {"options": {"data": str(tmp_path / "images"), "split": "all"}, "model_hash": "0"}
    io.write_json(tmp_path / "labels" / "options.json", {**settings, "class_names": list(NAMES)})
    return tmp_path, masks


def export(*arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code


def records_of(folder, split="train"):
    return {record.image_id: record for record in open_collection(str(folder)).read(split)}


SOURCES = {"cvat": "voc", "labelstudio": "label_studio"}  # the flag of `prepare`, where it is another


@pytest.mark.parametrize("form", sorted(TARGETS))
def test_masks_and_images_come_back_as_they_were(photographs, form):
    root, masks = photographs
    export(root / "labels", "--format", form, "--output", root / "out")
    source = f"--{SOURCES.get(form, form)}"
    assert prepare([source, str(root / "out"), "--output", str(root / "shards")]) == 0
    records = records_of(root / "shards")
    assert open_collection(str(root / "shards")).class_names == NAMES
    assert records.keys() == masks.keys()
    for image_id, mask in masks.items():
        expected = np.where(mask == 255, 0, mask) if form == "yolo" else mask  # which knows no 255
        np.testing.assert_array_equal(records[image_id].mask, expected)
        assert records[image_id].labels == tuple(n - 1 for n in np.unique(mask) if 0 < n < 255)
    assert records["turned"].image_bytes == oriented(6)


def test_components_draw_the_same_masks(photographs):
    root, masks = photographs
    export(root / "labels", "--format", "coco", "--instances", "component", "--output", root / "out")
    content = io.read_json(root / "out" / "annotations" / "instances_train.json")
    assert len(content["annotations"]) > sum(len(np.unique(mask[mask > 0])) for mask in masks.values())
    assert prepare(["--coco", str(root / "out"), "--output", str(root / "shards")]) == 0
    for image_id, record in records_of(root / "shards").items():
        np.testing.assert_array_equal(record.mask, masks[image_id])


@pytest.mark.parametrize("form", sorted(TARGETS))
def test_all_splits_of_a_collection_are_exported_twice_with_equal_bytes(tmp_path, form):
    write_collection(tmp_path / "shards")
    contents = []
    for name in ("one", "two"):
        summary = export_masks(str(tmp_path / "shards"), str(tmp_path / name), format=form)
        assert summary["splits"] == {"train": 2, "val": 1}
        files = [path for path in sorted((tmp_path / name).rglob("*")) if path.is_file()]
        contents.append([(path.relative_to(tmp_path / name), path.read_bytes()) for path in files])
    assert contents[0] == contents[1]


@pytest.mark.parametrize(("split", "expected"), [("all", {"train": 2, "val": 1}), ("val", {"val": 1})])
def test_splits_of_a_collection_can_be_chosen(tmp_path, split, expected):
    write_collection(tmp_path / "shards")
    summary = export_masks(str(tmp_path / "shards"), str(tmp_path / "out"), format="voc", split=split)
    assert summary["splits"] == expected


def test_voc_masks_are_the_label_maps_byte_for_byte(photographs):
    root, masks = photographs
    export(root / "labels", "--format", "voc", "--output", root / "out")
    for image_id in masks:
        exported = root / "out" / "SegmentationClass" / f"{image_id}.png"
        assert exported.read_bytes() == (root / "labels" / "masks" / f"{image_id}.png").read_bytes()


def test_photographs_come_from_a_collection_too(photographs, tmp_path):
    root, masks = photographs
    export(root / "labels", "--format", "coco", "--output", root / "out")
    assert prepare(["--coco", str(root / "out"), "--output", str(root / "shards")]) == 0
    export(
        root / "labels",
        "--format",
        "voc",
        "--data",
        root / "shards",
        "--split",
        "train",
        "--output",
        root / "v",
    )
    for image_id, mask in masks.items():
        data = (root / "v" / "SegmentationClass" / f"{image_id}.png").read_bytes()
        np.testing.assert_array_equal(decode_mask(data), mask)


def test_pycocotools_reads_the_file(photographs):
    coco = pytest.importorskip("pycocotools.coco", reason="COCO's own reader")
    root, masks = photographs
    export(root / "labels", "--format", "coco", "--output", root / "out")
    content = coco.COCO(str(root / "out" / "annotations" / "instances_train.json"))
    assert {entry["name"] for entry in content.loadCats(content.getCatIds())} == {*NAMES, "ignore"}
    for image in content.loadImgs(content.getImgIds()):
        drawn = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in content.loadAnns(content.getAnnIds(imgIds=image["id"])):
            drawn[content.annToMask(annotation) == 1] = annotation["category_id"]
        np.testing.assert_array_equal(drawn, masks[image["file_name"].rsplit(".", 1)[0]])


def test_what_does_not_fit_is_left_out_and_listed(photographs, capsys):
    root, _ = photographs
    io.write_bytes(root / "labels" / "masks" / "gone.png", encode_mask(scene((7, 12))))
    io.write_bytes(root / "labels" / "masks" / "a.png", encode_mask(scene((8, 12))))
    io.write_bytes(root / "labels" / "masks" / "turned.png", b"no mask")
    export(root / "labels", "--format", "voc", "--output", root / "out")
    lines = io.read_text(root / "out" / "errors.jsonl").splitlines()
    assert {problem["id"]: problem["reason"] for problem in map(json.loads, lines)} == {
        "gone": "missing",
        "a": "mask_size",
        "turned": "mask_corrupt",
    }
    assert "Left out: mask_corrupt 1, mask_size 1, missing 1" in capsys.readouterr().out
    assert io.read_text(root / "out" / "ImageSets" / "Segmentation" / "train.txt") == "sub/b c\n"


def test_a_finished_export_stays_unless_overwrite(photographs, capsys):
    root, _ = photographs
    command = (root / "labels", "--output", root / "out")
    export(*command, "--format", "voc")
    export(*command, "--format", "coco", code=2)
    assert "holds an export already" in capsys.readouterr().err
    export(*command, "--format", "coco", "--overwrite")
    assert not (root / "out" / "SegmentationClass").exists() or not list(
        (root / "out" / "SegmentationClass").rglob("*.png")
    )
    assert (root / "out" / "annotations" / "instances_train.json").exists()


def test_images_need_not_be_copied(photographs):
    root, _ = photographs
    export(root / "labels", "--format", "coco", "--no-copy_images", "--output", root / "out")
    assert not (root / "out" / "images").exists()


def test_an_interrupted_export_leaves_no_file_that_looks_complete(photographs, monkeypatch):
    root, _ = photographs
    target = TARGETS["coco"]
    monkeypatch.setattr(target, "write_image", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    export(root / "labels", "--format", "coco", "--output", root / "out", code=2)
    assert sorted(path.name for path in (root / "out").rglob("*") if path.is_file()) == ["wsss_output.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "voc", "instances": "component"}, "goes with `--format coco`"),
        ({"format": "cocoa"}, "--format must be one of"),
        ({"format": "voc", "images": "x", "data": "y"}, "Give one of `--images` and `--data`"),
        ({"format": "voc", "images": "labels"}, "No mask of .* belongs to an image in"),
    ],
)
def test_mistakes_are_one_line(photographs, options, message):
    root, _ = photographs
    if options.get("images") == "labels":
        options = {**options, "images": str(root / "empty")}
        io.write_bytes(root / "empty" / "other.jpg", encoded(picture()))
    with pytest.raises(UserError, match=message):
        export_masks(str(root / "labels"), str(root / "out"), **options)


def test_masks_alone_ask_for_photographs_and_classes(photographs, capsys):
    root, _ = photographs
    export(root / "labels" / "masks", "--format", "voc", "--output", root / "out", code=2)
    assert "pass `--classes`" in capsys.readouterr().err
    io.write_text(root / "classes.txt", "\n".join(NAMES))
    command = (root / "labels" / "masks", "--format", "voc", "--classes", root / "classes.txt")
    export(*command, "--output", root / "out", code=2)
    assert "where the photographs are by --images or --data" in capsys.readouterr().err
    export(*command, "--images", root / "images", "--output", root / "out")


@pytest.mark.parametrize("form", ["coco", "cvat", "labelstudio"])
def test_annotations_come_back_with_photographs_from_elsewhere(photographs, form):
    root, masks = photographs
    export(root / "labels", "--format", form, "--no-copy_images", "--output", root / "out")
    source = f"--{SOURCES.get(form, form)}"
    command = [source, root / "out", "--images", root / "images", "--output", root / "shards"]
    assert prepare([str(part) for part in command]) == 0
    for image_id, record in records_of(root / "shards").items():
        np.testing.assert_array_equal(record.mask, masks[image_id])


def test_masks_of_fiftyone_have_no_palette(photographs):
    root, masks = photographs
    export(root / "labels", "--format", "fiftyone", "--output", root / "out")
    for image_id, mask in masks.items():
        with Image.open(root / "out" / "train" / "labels" / f"{image_id}.png") as image:
            assert image.mode == "L"
            np.testing.assert_array_equal(np.asarray(image), mask)


def test_the_label_map_declares_every_number(photographs):
    root, _ = photographs
    export(root / "labels", "--format", "cvat", "--output", root / "out")
    lines = io.read_text(root / "out" / "labelmap.txt").splitlines()
    assert lines[1:] == [
        "background:0,0,0::",
        "cat:128,0,0::",
        "dog:0,128,0::",
        "7:128,128,0::",
        "ignored:224,224,192::",
    ]


def test_corrections_of_label_studio_go_before_predictions(photographs):
    root, masks = photographs
    export(root / "labels", "--format", "labelstudio", "--output", root / "out")
    tasks = io.read_json(root / "out" / "tasks.json")
    size = {"original_width": 12, "original_height": 7}
    polygon = {"points": [[0, 0], [50, 0], [50, 100], [0, 100]], "polygonlabels": ["dog"]}
    drawn = {"type": "polygonlabels", "value": polygon, **size}
    tasks[0]["annotations"] = [{"result": [drawn]}, {"was_cancelled": True, "result": []}]
    tasks[0]["data"]["image"] = "/data/upload/3/0123abcd-a.jpg"  # as Label Studio names uploads
    tasks[1]["predictions"][0]["result"][0]["value"]["rle"] = [1, 2, 3]
    io.write_json(root / "out" / "project.json", tasks)
    command = ["--label_studio", root / "out" / "project.json", "--images", root / "images"]
    assert prepare([str(part) for part in [*command, "--output", root / "shards"]]) == 0
    records = records_of(root / "shards")
    assert records.keys() == {"a", "turned"}
    np.testing.assert_array_equal(records["a"].mask, np.repeat([[2] * 6 + [0] * 6], 7, axis=0))
    np.testing.assert_array_equal(records["turned"].mask, masks["turned"])
    assert "Its shapes cannot be read" in io.read_text(root / "shards" / "errors.jsonl")


@pytest.mark.parametrize(
    "names",
    [
        "names: [cat, 'dog']",
        'names:\n  0: cat\n  1: "dog"\nval: x',
        "names:\n- cat\n- dog # a comment",
        "names: [cat,\n  dog]",
    ],
)
def test_a_yolo_data_set_of_another_program_is_read(tmp_path, names):
    io.write_text(tmp_path / "data.yaml", names)
    for name in ("a", "b", "c", "d"):
        io.write_bytes(tmp_path / "images" / "train" / f"{name}.jpg", encoded(picture()))
    io.write_text(tmp_path / "labels" / "train" / "a.txt", "1 0 0 0.5 0 0.5 1 0 1\n")
    io.write_text(tmp_path / "labels" / "train" / "b.txt", "0 0.5 0.5 0.1 0.1\n")  # a box
    io.write_text(tmp_path / "labels" / "train" / "c.txt", "2 0 0 0.5 0 0.5 1 0 1\n")
    assert prepare(["--yolo", str(tmp_path), "--output", str(tmp_path / "shards")]) == 0
    assert open_collection(str(tmp_path / "shards")).class_names == ("cat", "dog")
    records = records_of(tmp_path / "shards")
    np.testing.assert_array_equal(records["a"].mask, np.repeat([[2] * 6 + [0] * 6], 7, axis=0))
    assert (records["b"].mask == 255).all()
    assert records["b"].labels == (0,)
    assert (records["d"].mask == 0).all()
    assert "line 1 has the class 2" in io.read_text(tmp_path / "shards" / "errors.jsonl")


@pytest.mark.parametrize("content", ["names: cat", "names: {1: cat}", "- cat", "names: [", "nc: 2", ""])
def test_a_yolo_data_set_without_usable_names_is_one_line(tmp_path, content, capsys):
    io.write_text(tmp_path / "data.yaml", content)
    io.write_bytes(tmp_path / "images" / "train" / "a.jpg", encoded(picture()))
    assert prepare(["--yolo", str(tmp_path), "--output", str(tmp_path / "shards")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "data.yaml" in line


@pytest.mark.parametrize("form", ["yolo", "fiftyone"])
def test_a_file_of_the_users_among_the_exported_ones_stays(photographs, form):
    root, _ = photographs
    command = (root / "labels", "--format", form, "--output", root / "out")
    export(*command)
    mine = [root / "out" / name for name in ("images/train/mine.jpg", "holiday/data/mine.jpg", "notes.txt")]
    for path in mine:
        io.write_text(path, "mine")
    export(*command, "--overwrite")
    assert [path.read_text() for path in mine] == ["mine"] * 3


def test_an_export_that_was_killed_leaves_nothing_beside_the_next_one(photographs):
    root, _ = photographs
    command = (root / "labels", "--format", "yolo", "--output", root / "out")
    export(*command)
    (root / "out" / "summary.json").unlink()
    left = root / "out" / "images" / "train" / f".a.jpg.{'0' * 32}.unfinished"
    io.write_text(left, "half of it")
    export(*command)
    assert not left.exists()


def test_photographs_that_were_elsewhere_are_asked_for(photographs, capsys):
    root, _ = photographs
    options = io.read_json(root / "labels" / "options.json")
    options["options"]["data"] = "images"  # relative to where the labels were made
    io.write_json(root / "labels" / "options.json", options)
    command = (root / "labels", "--format", "voc", "--output", root / "out")
    export(*command, code=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert "made of `images`, which is not found from here" in line
    assert not (root / "out").exists()
    export(*command, "--images", root / "images")
