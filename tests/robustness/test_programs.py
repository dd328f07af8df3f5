"""What goes wrong around a program: a killed process, a full disk, an interrupt."""

import os
import shutil
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from wsss.common import io
from wsss.data.dataset import open_collection
from wsss.prepare import main as prepare


def photographs(folder, count=12):
    """A folder of images with a table; returns the arguments of `wsss.prepare`."""
    rows = ["id,cat"]
    for number in range(count):
        stream = BytesIO()
        Image.effect_noise((16, 16), 50).convert("RGB").save(stream, "PNG")
        io.write_bytes(folder / "images" / f"{number}.png", stream.getvalue())
        rows.append(f"{number},{number % 2}")
    io.write_text(folder / "labels.csv", "\n".join(rows) + "\n")
    return ["--images", str(folder / "images"), "--labels", str(folder / "labels.csv")]


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


KILLED = """
import os, sys
from wsss.prepare import main
calls, last, replace = 0, int(sys.argv[1]), os.replace
def counted(*arguments):
    global calls
    calls += 1
    if calls == last:
        os.kill(os.getpid(), 9)
    return replace(*arguments)
os.replace = counted
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("last", [1, 3, 6])
def test_preparation_that_was_killed_gives_the_same_bytes_when_run_again(tmp_path, overwrite, last):
    """Killed at the n-th file that it finishes, whether into an empty folder or over an older collection."""
    source = photographs(tmp_path)
    assert prepare([*source, "--output", str(tmp_path / "whole")]) == 0
    arguments = [*source, "--output", str(tmp_path / "shards")]
    if overwrite:
        assert prepare([*photographs(tmp_path / "old"), "--output", str(tmp_path / "shards")]) == 0
        arguments.append("--overwrite")
    before = content(tmp_path / "shards")
    command = [sys.executable, "-c", KILLED, str(last), *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    if overwrite:
        now = content(tmp_path / "shards")
        assert {name: now[name] for name in before} == before
    assert prepare(arguments) == 0
    assert content(tmp_path / "shards") == content(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root mounts a file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_same_command_goes_on_later(tmp_path, small_disk, capsys):
    arguments = [*photographs(tmp_path), "--output", str(small_disk / "shards")]
    filler = small_disk / "filler"
    filler.write_bytes(bytes(48_000))
    assert prepare(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "No space left" in error
    assert str(small_disk) in error
    assert "\n" not in error
    filler.unlink()
    assert prepare(arguments) == 0
    assert open_collection(str(small_disk / "shards")).split_sizes == {"train": 12}


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), PermissionError(13, "not allowed")])
def test_one_image_that_cannot_be_read_does_not_stop_preparation(tmp_path, monkeypatch, error):
    read_bytes = io.read_bytes

    def read(path):
        if str(path).endswith("/3.png"):
            raise error
        return read_bytes(path)

    monkeypatch.setattr(io, "read_bytes", read)
    assert prepare([*photographs(tmp_path), "--output", str(tmp_path / "shards")]) == 0
    assert open_collection(str(tmp_path / "shards")).split_sizes == {"train": 11}
    assert '"id": "3"' in io.read_text(tmp_path / "shards" / "errors.jsonl")


def test_an_interrupt_inside_a_worker_is_code_130(tmp_path, monkeypatch, capsys):
    def interrupt(path):
        raise KeyboardInterrupt

    source = photographs(tmp_path)
    monkeypatch.setattr("wsss.pipeline.stages.collection.write_records", lambda *arguments: interrupt(None))
    assert prepare([*source, "--output", str(tmp_path / "shards")]) == 130
    assert "Traceback" not in capsys.readouterr().err
