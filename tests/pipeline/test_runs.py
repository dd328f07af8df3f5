"""The pipeline run again, stopped, or run by other processes: the same bytes, and nothing done twice."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pseudo_label_cases import FLAGS, label, make_records, tree
from wsss.common import io
from wsss.pipeline.output import Layout
from wsss.pipeline.stages import write as write_stage
from wsss.pipeline.stages.manifest import read_manifests
from wsss.pseudo_labels import main


def test_two_runs_give_the_same_bytes(labels, run, tmp_path):
    assert label(tmp_path, run) == 0
    assert tree(tmp_path) == tree(labels)


@pytest.mark.parametrize("output_format", ["png", "tfrecord"])
def test_waves_and_resumed_waves_give_the_bytes_of_one_wave(run, tmp_path, output_format):
    flags = ("--output_format", output_format)
    assert label(tmp_path / "one", run, *flags) == 0
    waves = tmp_path / "waves"
    assert label(waves, run, *flags, "--images_per_wave", "4") == 0
    assert tree(waves) == tree(tmp_path / "one")
    for index in (0, 2):
        (waves / "manifests" / f"train-{index:05d}-of-00003.json").unlink()
    assert label(waves, run, *flags, "--images_per_wave", "4") == 0
    assert tree(waves) == tree(tmp_path / "one")


def test_a_second_run_skips_what_is_done(labels, run, capsys):
    before = {path: path.stat().st_mtime_ns for path in (labels / "masks").iterdir()}
    content = tree(labels)
    assert label(labels, run) == 0
    assert "3 of 3 shards are done already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (labels / "masks").iterdir()} == before
    assert tree(labels) == content


def test_a_run_goes_on_where_shards_are_missing(labels, run, tmp_path):
    shutil.copytree(labels, tmp_path / "labels")
    (tmp_path / "labels" / "manifests" / "train-00001-of-00003.json").unlink()
    for name in ("summary.json", "masks/image_01.png"):
        (tmp_path / "labels" / name).unlink()
    (tmp_path / "labels" / "masks" / ".image_04.png.abc.unfinished").write_bytes(b"half")
    assert label(tmp_path / "labels", run) == 0
    assert tree(tmp_path / "labels") == tree(labels)


@pytest.mark.parametrize("damage", [os.remove, lambda path: os.truncate(path, 0)], ids=["gone", "empty"])
@pytest.mark.parametrize("lost", ["masks/image_01.png", "scores/image_01.npz", "*tfrecord-00001*"])
def test_an_output_that_was_lost_is_made_again(run, tmp_path, capsys, lost, damage):
    flags = ("--output_format", "tfrecord") if "tfrecord" in lost else ("--save_scores",)
    assert label(tmp_path, run, *flags) == 0
    content = tree(tmp_path)
    (path,) = tmp_path.glob(lost)
    damage(path)
    capsys.readouterr()
    assert label(tmp_path, run, *flags) == 0
    assert "2 of 3 shards are done already" in capsys.readouterr().out
    assert tree(tmp_path) == content


def test_other_options_are_an_error_and_overwrite_redoes_all(labels, run, tmp_path, capsys):
    shutil.copytree(labels, tmp_path / "labels")
    assert label(tmp_path / "labels", run, "--background_alpha", "4") == 2
    error = capsys.readouterr().err
    assert "background_alpha None there, 4.0 here" in error
    assert error.count("\n") == 1
    (tmp_path / "labels" / "mine.txt").write_text("kept")
    assert label(tmp_path / "labels", run, "--background_alpha", "4", "--overwrite") == 0
    summary = json.loads((tmp_path / "labels" / "summary.json").read_text())
    assert summary["options"]["background_threshold"] is None
    assert (tmp_path / "labels" / "mine.txt").read_text() == "kept"
    assert tree(tmp_path / "labels")["masks/image_01.png"] != tree(labels)["masks/image_01.png"]


def test_bare_the_newest_run_and_its_data_are_taken(labels, run, tmp_path, monkeypatch):
    for name in ("seam-1", "seam-2"):
        shutil.copytree(run, tmp_path / "runs" / name)
    os.utime(tmp_path / "runs" / "seam-1" / "model.keras", (0, 0))
    monkeypatch.chdir(tmp_path)
    assert main(["--scales", "0.5,1"]) == 0
    ours = tree(tmp_path / "runs" / "seam-2" / "pseudo_labels" / "train" / "masks")
    assert ours == tree(labels / "masks")


@pytest.mark.slow
def test_worker_processes_give_the_same_bytes(labels, run, tmp_path):
    flags = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert label(tmp_path, run, *flags) == 0
    assert tree(tmp_path) == tree(labels)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(labels, run, tmp_path):
    command = [sys.executable, str(Path(__file__).parents[2] / "pipelines" / "pseudo_labels.py"), *FLAGS]
    command += ["--model", run, "--output", str(tmp_path), "--save_scores", "--images_per_wave", "4"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not list(tmp_path.glob("manifests/*.json")):
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "summary.json").exists()
    assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0
    assert tree(tmp_path) == tree(labels)


@pytest.mark.parametrize(
    ("percent", "output_format"), [(30, "png"), (60, "png"), (90, "png"), (60, "tfrecord")]
)
def test_shards_finished_before_a_failure_are_not_labeled_again(
    run, tmp_path, monkeypatch, percent, output_format
):
    """In a single wave, as on a cluster: shards of one image or a few, and the job fails at one of 12."""
    images = tmp_path / "images"
    for record in make_records():
        io.write_bytes(str(images / f"{record.image_id}.png"), record.image_bytes)
    flags = ("--data", str(images), "--images_per_shard=1", "--images_per_wave=1000")
    flags += ("--image_labels=predicted", "--label_threshold=0", f"--output_format={output_format}")
    undisturbed, interrupted = tmp_path / "undisturbed", tmp_path / "interrupted"
    assert label(undisturbed, run, *flags) == 0
    written, write = [], Layout.scores

    def fail(layout, image_id):
        if len(written) == 12 * percent // 100:
            raise OSError(errno.EIO, os.strerror(errno.EIO), image_id)
        written.append(image_id)
        return write(layout, image_id)

    with monkeypatch.context() as patch:
        patch.setattr(Layout, "scores", fail)
        assert label(interrupted, run, *flags) == 2
    members = {name: set(each.image_ids) for name, each in read_manifests(Layout(str(undisturbed))).items()}
    whole = {name for name, ids in members.items() if ids and ids.issubset(written)}
    finished = read_manifests(Layout(str(interrupted)))
    assert {name for name in finished if members[name]} == whole
    kept = set().union(*(members[name] for name in whole))
    assert kept

    again, write_file = [], write_stage._write

    def write_again(layout, path, content):
        again.append(path)
        write_file(layout, path, content)

    with monkeypatch.context() as patch:
        patch.setattr(write_stage, "_write", write_again)
        assert label(interrupted, run, *flags) == 0
    scores = Layout(str(interrupted)).scores
    expected = [scores(image_id) for image_id in set().union(*members.values()) - kept]
    assert sorted(path for path in again if path.endswith(".npz")) == sorted(expected)
    assert tree(interrupted) == tree(undisturbed)
