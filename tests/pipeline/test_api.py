"""The pipeline as functions."""

import json
import shutil

import pytest

from tests.pseudo_label_cases import tree
from wsss import label_collection, predict_masks
from wsss.common.errors import UserError
from wsss.pipeline.job.settings import resolve
from wsss.pipeline.options import LabelOptions
from wsss.pipeline.trained_run import open_trained_run


def test_labels_are_those_of_the_program(labels, run, tmp_path, capsys):
    result = label_collection(run, output=str(tmp_path), scales=(0.5, 1.0), previews=2, save_scores=True)
    assert tree(tmp_path) == tree(labels)
    assert (result.output, result.labeled, result.failed) == (str(tmp_path), 12, 0)
    assert (result.background_threshold, len(result.warnings)) == (0.2, 1)
    assert 0 < result.miou < 1
    assert capsys.readouterr().out == ""


def test_masks_of_a_folder_need_no_tags(run, records, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "new.png").write_bytes(records[0].image_bytes)
    output = str(tmp_path / "masks")
    result = predict_masks(run, str(tmp_path / "photos"), output, scales=(1.0,), label_threshold=0.4)
    assert (result.labeled, result.miou) == (1, None)
    assert (tmp_path / "masks" / "masks" / "new.png").exists()


@pytest.mark.parametrize(("images", "message"), [("nowhere", "does not exist"), ("a.jpg", "is a file")])
def test_images_must_be_a_folder(run, tmp_path, monkeypatch, images, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=f"`--images` {images} {message}"):
        predict_masks(run, images, "masks")
    assert not (tmp_path / "masks").exists()


def test_an_option_out_of_range_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="background_threshold"):
        label_collection(run, output=str(tmp_path / "labels"), background_threshold=3.0)
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize(
    ("trained", "given", "expected"),
    [
        ({"image_size": 224, "long_side": [96, 144]}, None, 96),
        ({"image_size": 224, "long_side": [96, 144]}, 0, 0),
        ({"image_size": 448, "long_side": None}, None, 256),
        ({}, None, 0),
    ],
)
def test_small_images_are_enlarged_to_what_the_run_was_trained_at(run, tmp_path, trained, given, expected):
    folder = shutil.copytree(run, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "options": trained}))
    settings = resolve(LabelOptions(min_side=given), open_trained_run(str(folder)))
    assert settings.output.recorded["min_side"] == expected
