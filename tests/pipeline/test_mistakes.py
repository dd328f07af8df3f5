"""What is wrong with the images costs those images, what is wrong with the command one line."""

import errno
import json
import shutil

import pytest

from tests.pseudo_label_cases import corrupt, label, make_records, tree, write_collection
from wsss.common import io
from wsss.evaluate import main as evaluate
from wsss.pipeline.options import CRF_PRESET_NAMES
from wsss.refine.crf import CRF_PRESETS


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


def test_a_model_without_affinities_is_reported_before_any_work(run, tmp_path, capsys):
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
    assert tuple(CRF_PRESETS) == CRF_PRESET_NAMES


def failing_writes(monkeypatch, error):
    """Makes each writing of a mask raise an error."""
    write_bytes = io.write_bytes

    def write(path, data):
        if "/masks/" in str(path):
            raise error
        write_bytes(path, data)

    monkeypatch.setattr(io, "write_bytes", write)


def test_a_full_disk_ends_the_job_in_one_line_and_the_same_command_goes_on(
    labels, run, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patched:
        failing_writes(patched, OSError(errno.ENOSPC, "No space left on device", "labels/masks/a.png"))
        assert label(tmp_path / "labels", run) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("E0000")]
    assert line.startswith("error: labels/masks/a.png: No space left on device.")
    assert not list((tmp_path / "labels").glob("manifests/*"))
    assert label(tmp_path / "labels", run) == 0
    assert tree(tmp_path / "labels") == tree(labels)


def test_overwriting_keeps_the_old_labels_until_the_new_ones_are_complete(labels, run, tmp_path, monkeypatch):
    shutil.copytree(labels, tmp_path / "labels")
    flags = ("--background_alpha", "4", "--overwrite")
    with monkeypatch.context() as patched:
        failing_writes(patched, OSError(errno.ENOSPC, "No space left on device", "labels/masks/a.png"))
        assert label(tmp_path / "labels", run, *flags) == 2
    kept = {name: each for name, each in tree(tmp_path / "labels").items() if not name.startswith(".new/")}
    assert kept == tree(labels)
    assert label(tmp_path / "labels", run, *flags) == 0
    assert label(tmp_path / "anew", run, *flags) == 0
    assert tree(tmp_path / "labels") == tree(tmp_path / "anew")


def test_an_interrupt_in_a_worker_ends_the_job_in_one_line(run, tmp_path, monkeypatch, capsys):
    failing_writes(monkeypatch, KeyboardInterrupt())
    assert label(tmp_path / "labels", run) == 130
    captured = capsys.readouterr()
    assert "the same command resumes" in captured.out
    assert "Traceback" not in captured.err


def test_a_folder_with_files_of_others_is_no_output(run, tmp_path, capsys):
    (tmp_path / "labels" / "masks").mkdir(parents=True)
    (tmp_path / "labels" / "masks" / "image_00.png").write_bytes(b"drawn by hand")
    for flags in ((), ("--overwrite",)):
        assert label(tmp_path / "labels", run, *flags) == 2
        assert "which wsss did not write" in capsys.readouterr().err
    assert (tmp_path / "labels" / "masks" / "image_00.png").read_bytes() == b"drawn by hand"


@pytest.mark.parametrize("flags", [(), ("--overwrite",), ("--output_format", "tfrecord", "--overwrite")])
def test_the_collection_that_is_read_is_never_the_output(run, records, tmp_path, capsys, flags):
    write_collection(str(tmp_path / "data"), records)
    before = tree(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for output in (tmp_path / "data", tmp_path / "link"):
        assert label(output, run, "--data", str(tmp_path / "data"), *flags) == 2
        assert "is also the input" in capsys.readouterr().err
    assert tree(tmp_path / "data") == before


def test_two_images_of_one_id_are_refused_before_any_work(run, records, tmp_path, capsys):
    for folder in ("data", "labels"):
        (tmp_path / folder).mkdir()
    write_collection(str(tmp_path / "data"), [records[0], records[1], records[0]])
    (tmp_path / "data" / "fingerprints.json").unlink()  # as TFDS writes it
    assert label(tmp_path / "labels", run, "--data", str(tmp_path / "data")) == 2
    assert f"`{records[0].image_id}` (2 times)" in capsys.readouterr().err
    assert not list((tmp_path / "labels").iterdir())
    truth = ["--truth", str(tmp_path / "data"), "--predictions", str(tmp_path / "data")]
    assert evaluate(truth) == 2
    assert f"`{records[0].image_id}` (2 times)" in capsys.readouterr().err
