"""JSON files that are read back: what is damaged is named in one line, what version 0.1.0 wrote is read."""

import json
import shutil

import pytest

from tests.pseudo_label_cases import label, tree
from wsss.common import io
from wsss.common.errors import UserError
from wsss.evaluate import main as evaluate
from wsss.pipeline.output import LabelSettings, decode_scores
from wsss.pipeline.plan import Retired
from wsss.pipeline.report.results import read_summary
from wsss.pipeline.stages.manifest import Manifest
from wsss.pipeline.stages.threshold import read_threshold
from wsss.pipeline.trained_run import open_trained_run

MANIFEST = "manifests/train-00001-of-00003.json"


@pytest.fixture
def copy(labels, tmp_path):
    shutil.copytree(labels, tmp_path / "labels")
    return tmp_path / "labels"


def change(path, **fields):
    value = json.loads(path.read_text())
    io.write_json(str(path), {**value, **fields})


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (MANIFEST, {"source": 3}, "`source` must be a text"),
        (MANIFEST, {"tally": {"images": 1}}, "`tally` must hold the counts of a shard"),
        (MANIFEST, {"image_ids": [1]}, "`image_ids` must be a list of texts"),
        ("options.json", {"class_names": "cat"}, "`class_names` must be a list"),
    ],
)
def test_a_damaged_file_of_the_output_is_one_line(copy, run, capsys, name, fields, message):
    change(copy / name, **fields)
    assert label(copy, run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {copy / name} is damaged: {message}")


@pytest.mark.parametrize("content", ["[]", "{", '{"images": {"labelled": "many", "failed": 0}}'])
def test_a_damaged_summary_is_one_line(copy, content):
    (copy / "summary.json").write_text(content)
    with pytest.raises(UserError, match=r"summary\.json"):
        read_summary(str(copy))


@pytest.mark.parametrize(
    ("field", "value"),
    [("class_names", [1, 2, 3]), ("options", 3), ("long_side", [float("nan")]), ("long_side", [10**400])],
)
def test_damaged_settings_of_a_run_are_one_line(run, tmp_path, field, value):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    change(path, **({"options": {field: value}} if field == "long_side" else {field: value}))
    with pytest.raises(UserError, match=rf"config\.json is damaged: `{field}`"):
        open_trained_run(str(tmp_path / "run"))


def test_a_damaged_threshold_is_one_line(tmp_path):
    (tmp_path / "threshold.json").write_text('{"threshold": "0.3", "pixels": 1}')
    with pytest.raises(UserError, match=r"threshold\.json is damaged: `threshold` must be a finite number"):
        read_threshold(str(tmp_path / "threshold.json"))


def test_retired_files_never_lie_outside_the_folder():
    with pytest.raises(UserError, match="names of files in this folder"):
        Retired.from_json({"image_ids": [], "record_files": ["../photo.jpg"]}, "retired.json")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut", b"\x93NUMPY"])
def test_damaged_scores_are_a_value_error(data):
    with pytest.raises(ValueError, match="Not a whole score file"):
        decode_scores(data)


def test_a_manifest_survives_json(labels):
    path = str(labels / MANIFEST)
    manifest = Manifest.from_json(io.read_json(path), path)
    assert manifest.image_ids == ("image_01", "image_04", "image_07", "image_10")
    value = io.read_json(path)
    assert [row.pop("image_id") for row in value.pop("rows")] == list(manifest.image_ids)
    assert set(value.pop("pictures")) <= set(manifest.image_ids)
    assert manifest.to_json() == value


def test_settings_without_a_newer_option_are_the_same(labels):
    value = io.read_json(str(labels / "options.json"))
    older = {**value, "options": {key: each for key, each in value["options"].items() if key != "walk_beta"}}
    here, there = (LabelSettings.from_json(each, "options.json") for each in (value, older))
    assert here.difference(there) == ""
    older["options"]["cam"] = "cam"
    assert "cam cam there, refined_cam here" in here.difference(
        LabelSettings.from_json(older, "options.json")
    )


def test_labels_of_version_0_1_0_are_read_and_done_again(labels, run, data, copy, capsys):
    """Its manifests say `N records` and list no images; it had no marker."""
    (copy / "wsss_output.json").unlink()
    for path in (copy / "manifests").iterdir():
        value = json.loads(path.read_text())
        del value["image_ids"]
        for failure in value["tally"]["failures"]:
            del failure["transient"]
        io.write_json(str(path), {**value, "source": "4 records"})
    metrics = json.loads((copy / "metrics.json").read_text())
    del metrics["of"], metrics["background_threshold"]["best_is_of"]
    io.write_json(str(copy / "metrics.json"), metrics)
    assert read_summary(str(copy))[1].miou == metrics["miou"]
    assert evaluate(["--predictions", str(copy), "--truth", data]) == 0
    assert label(copy, run) == 0
    assert "done already" not in capsys.readouterr().out
    assert {name: each for name, each in tree(copy).items() if name != "wsss_output.json"} == {
        name: each for name, each in tree(labels).items() if name != "wsss_output.json"
    }
