"""What is wrong with the images costs those images, what is wrong with the command one line."""

import json
import shutil

import pytest

from tests.pseudo_label_cases import corrupt, label, make_records, tree, write_collection
from wsss.common import io
from wsss.pipeline.options import CRF_PRESETS
from wsss.refine.crf import PRESETS


def test_one_corrupt_image_costs_one_line_and_nothing_else(labels, run, records, tmp_path):
    damaged = [corrupt(record) if index == 5 else record for index, record in enumerate(records)]
    write_collection(str(tmp_path / "data"), damaged)
    assert label(tmp_path / "labels", run, "--data", str(tmp_path / "data")) == 0
    (line,) = (tmp_path / "labels" / "errors.jsonl").read_text().splitlines()
    error = json.loads(line)
    assert (error["id"], error["stage"]) == ("image_05", "decode")
    expected = {
        name: content for name, content in tree(labels).items() if name.startswith(("masks", "scores"))
    }
    del expected["masks/image_05.png"], expected["scores/image_05.npz"]
    ours = tree(tmp_path / "labels")
    assert {
        name: content for name, content in ours.items() if name.startswith(("masks", "scores"))
    } == expected


def test_too_many_failures_fail_the_job_but_keep_the_rest(run, records, tmp_path, capsys):
    damaged = [corrupt(record) if index < 5 else record for index, record in enumerate(records)]
    write_collection(str(tmp_path / "data"), damaged)
    flags = ("--data", str(tmp_path / "data"), "--max_error_rate", "0.4")
    assert label(tmp_path / "labels", run, *flags) == 1
    assert "5 of 12 images failed" in capsys.readouterr().err
    assert len(list((tmp_path / "labels" / "masks").iterdir())) == 7


def test_a_damaged_shard_costs_its_images_only(run, records, tmp_path):
    write_collection(str(tmp_path / "data"), records)
    shard = tmp_path / "data" / "tiny-train.tfrecord-00001-of-00003"
    shard.write_bytes(shard.read_bytes()[:-50])
    assert label(tmp_path / "labels", run, "--data", str(tmp_path / "data")) == 0
    (line,) = (tmp_path / "labels" / "errors.jsonl").read_text().splitlines()
    assert json.loads(line)["stage"] == "read"
    assert len(list((tmp_path / "labels" / "masks").iterdir())) == 11


def test_a_folder_without_tags_cannot_have_true_labels(run, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(make_records(1)[0].image_bytes)
    assert label(tmp_path / "labels", run, "--data", str(tmp_path)) == 2
    assert "--image_labels predicted" in capsys.readouterr().err


def test_classes_of_model_and_collection_must_agree(run, records, tmp_path, capsys):
    write_collection(str(tmp_path / "data"), records, class_names=("cat", "cow", "dog"))
    assert label(tmp_path / "labels", run, "--data", str(tmp_path / "data")) == 2
    assert "other classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--background_treshold", "0.3"], "Did you mean `--background_threshold`?"),
        (["--background_threshold", "0.3", "--background_alpha", "4"], "one of"),
        (["--model", "nowhere"], "no model at nowhere"),
        (["--data", "nowhere/at-all"], "nowhere/at-all"),
        (["--split", "test"], "no split `test`"),
    ],
)
def test_a_users_mistake_is_one_line(run, tmp_path, capsys, flags, message):
    assert label(tmp_path / "labels", run, *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_model_without_affinities_is_told_before_any_work(run, tmp_path, capsys):
    assert label(tmp_path / "labels", run, "--refine", "walk", "--affinity_model", str(run)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: `--affinity_model {run}`: ")
    assert "`--model irn`" in line
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize(
    "flags", [["--scales", "0,1"], ["--background_threshold", "1.5"], ["--refine", "magic"], ["--scal", "1"]]
)
def test_a_bad_value_ends_with_code_two(run, tmp_path, capsys, flags):
    assert label(tmp_path / "labels", run, *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert flags[0] in line


def test_a_run_whose_data_is_gone_asks_for_other_data(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    io.write_json(tmp_path / "run" / "config.json", {"data": "gone"})
    assert label(tmp_path / "labels", str(tmp_path / "run")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "`--data` is missing, and gone, what the model was trained on, is not here" in line


def test_the_presets_of_the_crf_are_those_that_there_are():
    assert tuple(PRESETS) == CRF_PRESETS
