"""Every program on a disk that becomes full: one line names the file, with room the same command goes on.

The disk is a small file system in memory. A file leaves of it a part of what the undisturbed run took.
"""

import importlib
import os
import shutil
import subprocess

import keras
import numpy as np
import pytest
from PIL import Image

from benchmarks.kills import WORKERS, content
from tests.pseudo_label_cases import FLAGS, make_records, write_collection, write_run
from tests.test_convert import WIDTH, random_tensors, write_torch
from tests.training.small_runs import command_line, draw_collection
from wsss.weights import published

pytestmark = [pytest.mark.slow, pytest.mark.backends("tensorflow", reason="tf.data")]
SIZE = 32 << 20


class Disk:
    """A file system of `SIZE` bytes at `path`, with a file of the user's."""

    def __init__(self, path):
        self.path, self._filler = path, path / "filler"
        (path / "notes.txt").write_text("mine")

    def used(self):
        state = os.statvfs(self.path)
        return (state.f_blocks - state.f_bfree) * state.f_bsize

    def leave(self, room):
        """Fills the disk but for some bytes."""
        with open(self._filler, "wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, SIZE - self.used() - room)

    def make_room(self):
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root mounts a file system")
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield Disk(folder)
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with all that the programs read."""
    from wsss.pseudo_labels import main

    folder = tmp_path_factory.mktemp("inputs")
    for name in ("collection", "trained", "photographs"):
        (folder / name).mkdir()
    records = make_records()
    write_collection(str(folder / "collection"), records)
    write_run(folder / "trained", folder / "collection")
    for record in records:
        (folder / "photographs" / f"{record.image_id}.png").write_bytes(record.image_bytes)
    draw_collection(folder / "scenes")
    labels = ["--model", str(folder / "trained"), "--output", str(folder / "labels"), "--save_scores"]
    assert main([*FLAGS, *labels]) == 0
    write_torch(folder / "weights.pth", random_tensors(published.build_network("seam", 3, width=WIDTH)))
    return folder


def command(program, inputs, output):
    """The name of a program's module, and its arguments."""
    name = program.split()[0]
    label = [*FLAGS, "--model", str(inputs / "trained"), "--images_per_wave", "4", "--output", str(output)]
    evaluate = ["--predictions", str(inputs / "labels" / "scores"), "--truth", str(inputs / "collection")]
    return name, {
        "train": command_line(
            str(inputs / "scenes"), str(output), checkpoint_steps=2, on_divergence="continue"
        ),
        "pseudo_labels png": [*label, "--save_scores"],
        "pseudo_labels tfrecord": [*label, "--output_format", "tfrecord"],
        "relabel": [str(inputs / "labels"), "--images_per_wave", "4", "--output", str(output)],
        "predict": [*label, "--images", str(inputs / "photographs"), "--images_per_shard", "4"],
        "evaluate": [*evaluate, "--output", str(output)],
        "report": [str(output)],
        "convert": [str(inputs / "weights.pth"), str(output / "model.keras")],
    }[program]


def begin(program, inputs, output):
    """Makes what a program finds in its output folder."""
    shutil.rmtree(output, ignore_errors=True)
    if program == "report":
        shutil.copytree(inputs / "labels", output)
        (output / "report.html").unlink()


def run(program, inputs, output, *flags):
    """Runs a program, as in a process of its own: layers are counted from one. Its exit code."""
    keras.utils.clear_session()
    name, arguments = command(program, inputs, output)
    return importlib.import_module(f"wsss.{name}").main([*arguments, *flags])


def assert_one_line(written, output):
    """Standard error names the file of the output that did not fit, and nothing else."""
    error = written.err.strip()
    assert error.startswith("error: ")
    assert "No space left" in error
    assert str(output) in error
    assert "\n" not in error


@pytest.fixture
def narrow_networks(monkeypatch):
    build = published.build_network
    monkeypatch.setattr(
        published, "build_network", lambda *args, **kwargs: build(*args, width=WIDTH, **kwargs)
    )


@pytest.mark.parametrize(
    "program",
    [
        *("train", "pseudo_labels png", "pseudo_labels tfrecord"),
        *("relabel", "predict", "evaluate", "report", "convert"),
    ],
)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(program, inputs, disk, narrow_networks, capsys):
    output, before = disk.path / "output", content(inputs)
    begin(program, inputs, output)
    used = disk.used()
    assert run(program, inputs, output) == 0
    expected, needed = content(output), disk.used() - used
    for part in (0.02, 0.6):
        begin(program, inputs, output)
        capsys.readouterr()
        disk.leave(int(part * needed))
        assert run(program, inputs, output) == 2
        assert_one_line(capsys.readouterr(), output)
        disk.make_room()
        assert run(program, inputs, output) == 0
        assert content(output) == expected
    assert content(inputs) == before
    assert (disk.path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        ("pseudo_labels tfrecord", ["--background_alpha", "4"]),
        ("evaluate", ["--background_threshold", "0.7"]),
        ("convert", []),
    ],
)
def test_old_results_stay_where_new_ones_do_not_fit(program, flags, inputs, disk, narrow_networks, capsys):
    output = disk.path / "output"
    assert run(program, inputs, output) == 0
    old = content(output)
    (output / "mine.txt").write_text("mine")
    capsys.readouterr()
    disk.leave(8192)
    assert run(program, inputs, output, *flags, "--overwrite") == 2
    assert_one_line(capsys.readouterr(), output)
    now = content(output)
    assert {name: now[name] for name in old} == old
    disk.make_room()
    assert run(program, inputs, output, *flags, "--overwrite") == 0
    assert (output / "mine.txt").read_text() == "mine"


def test_a_disk_that_is_full_under_worker_processes_is_one_line_too(tmp_path, disk, capfd):
    from wsss.prepare import main

    rng, photographs = np.random.default_rng(0), tmp_path / "photographs"
    photographs.mkdir()
    for name in "abcd":
        Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8)).save(photographs / f"{name}.png")
    (tmp_path / "tags.csv").write_text("id,cat,dog\na,1,0\nb,0,1\nc,1,1\nd,0,0\n")
    source = ["--images", str(photographs), "--labels", str(tmp_path / "tags.csv"), "--shards", "2"]
    output = disk.path / "output"
    disk.leave(100_000)  # the plans, but no shard
    assert main([*source, *WORKERS, "--output", str(output)]) == 2
    assert_one_line(capfd.readouterr(), output)
    disk.make_room()
    assert main([*source, *WORKERS, "--output", str(output)]) == 0
    assert main([*source, "--output", str(tmp_path / "undisturbed")]) == 0
    assert content(output) == content(tmp_path / "undisturbed")
    assert (disk.path / "notes.txt").read_text() == "mine"
