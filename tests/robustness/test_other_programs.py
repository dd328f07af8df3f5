"""Data sets of annotation tools and training frameworks with damaged files: one line, or one image less."""

import json

import numpy as np
import pytest

from tests.data.test_images import encoded, picture
from wsss.common import io
from wsss.common.errors import UserError
from wsss.data.sources.label_studio import read_label_studio
from wsss.data.sources.mmseg import read_fiftyone, read_mmseg
from wsss.data.sources.yolo import read_yolo
from wsss.data.targets.brush import encode_brush

SIZE = {"original_width": 12, "original_height": 7}


def brush(**changes):
    value = {"format": "rle", "rle": encode_brush(np.eye(7, 12, dtype=bool)), "brushlabels": ["cat"]}
    return {"type": "brushlabels", **SIZE, "value": {**value, **changes}}


def polygon(points):
    value = {"points": points, "polygonlabels": ["cat"]}
    return {"type": "polygonlabels", **SIZE, "value": value}


def task(name, *results, **fields):
    return {"data": {"image": f"/x/{name}.png"}, "annotations": [{"result": list(results)}], **fields}


def read_tasks(folder, *tasks):
    for name in ("a", "b"):
        io.write_bytes(folder / "images" / f"{name}.png", encoded(picture(), "PNG"))
    io.write_text(folder / "tasks.json", json.dumps([task("a", brush()), *tasks]))
    return read_label_studio(str(folder))


@pytest.mark.parametrize(
    "damaged",
    [
        task("b", annotations=5),
        task("b", annotations=["x"]),
        task("b", annotations=[{"result": {"value": 1}}]),
        task("b", 7),
        task("b", {"type": "brushlabels"}),
        task("b", {"type": ["brushlabels"], "value": {}}),
        task("b", brush(brushlabels="cat")),
        task("b", brush(rle=2**34)),
        task("b", brush(rle=[1e300])),
        task("b", brush() | {"original_width": 1e999}),
        task("b", brush() | {"original_width": 65_000, "original_height": 65_000}),
        task("b", polygon([[float("nan"), 1], [2, 3], [4, 5]])),
        task("b", polygon([[1e300, 1], [2, 3], [4, 5]])),
        task("b", data={"image": "a\0b"}),
        task("b", data=[]),
        task("b", data={"image": {"url": "b.png"}}),
    ],
    ids=lambda value: json.dumps(value)[-60:],
)
def test_a_damaged_task_of_label_studio_is_left_out_and_named(tmp_path, damaged):
    listing = read_tasks(tmp_path, damaged)
    assert [item.image_id for item in listing.items if item.mask] == ["a"]
    assert listing.class_names == ("cat",)
    assert len(listing.problems) == 1 or listing.items[1].mask is None


@pytest.mark.parametrize("name", [3, ["cat"], "a\0b"])
def test_names_that_are_no_text_are_one_line(tmp_path, name):
    with pytest.raises(UserError, match="names of the classes as text"):
        read_tasks(tmp_path, task("b", brush(brushlabels=[name])))


YAML = {
    "bomb": "a: &a [x, x, x, x, x, x, x, x]\n"
    + "".join(f"{k}: &{k} [{', '.join([f'*{j}'] * 8)}]\n" for j, k in zip("abcdefghi", "bcdefghij"))
    + "names: [*j]",
    "nested": "names: " + "[" * 1500,
    "bytes": b"names: [\xff]",
    "blank": "names: ['']",
    "twice": "names: [cat, cat]",
}


@pytest.mark.parametrize("content", YAML.values(), ids=YAML)
def test_a_damaged_data_yaml_is_one_line(tmp_path, content):
    io.write_bytes(tmp_path / "data.yaml", content if isinstance(content, bytes) else content.encode())
    io.write_bytes(tmp_path / "images" / "train" / "a.png", encoded(picture(), "PNG"))
    with pytest.raises(UserError, match=r"data\.yaml"):
        read_yolo(str(tmp_path))


def test_a_class_of_yolo_is_called_as_it_is_written(tmp_path):
    """YAML takes `no` for false, `1e3` for 1000.0 and `2001-01-01` for a date."""
    io.write_text(tmp_path / "data.yaml", "names: {0: no, 1: 1e3, 2: 2001-01-01, 3: 08}")
    io.write_bytes(tmp_path / "images" / "train" / "a.png", encoded(picture(), "PNG"))
    assert read_yolo(str(tmp_path)).class_names == ("no", "1e3", "2001-01-01", "08")


@pytest.mark.parametrize(
    "names", [5, [], ["background"], ["background", 3], ["background", "\ud800"], ["cat"]]
)
def test_damaged_class_names_of_mmseg_are_one_line(tmp_path, names):
    io.write_text(tmp_path / "metainfo.json", json.dumps({"classes": names}))
    with pytest.raises(UserError, match=r"metainfo\.json"):
        read_mmseg(str(tmp_path))


@pytest.mark.parametrize("targets", [{}, {"1": 3}, {"1": "cat", "3": "dog"}, {"1": "cat", "2": "cat"}])
def test_damaged_class_names_of_fiftyone_are_one_line(tmp_path, targets):
    io.write_text(tmp_path / "mask_targets.json", json.dumps(targets))
    with pytest.raises(UserError, match=r"mask_targets\.json"):
        read_fiftyone(str(tmp_path))
