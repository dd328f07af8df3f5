"""`wsss.common.io` and `wsss.common.errors`."""

import errno
import io as io_module
import os
import subprocess
import sys

import pytest

from wsss.common import io
from wsss.common.errors import UserError, program


def test_what_is_written_is_read_back(tmp_path):
    path = io.join(tmp_path, "new", "folder", "value.json")
    io.write_json(path, {"b": [1, 2], "a": "ä"})
    assert io.read_text(path) == '{\n  "a": "ä",\n  "b": [\n    1,\n    2\n  ]\n}\n'
    assert io.read_json(path) == {"a": "ä", "b": [1, 2]}
    assert io.exists(path)
    io.remove(path)
    io.remove(path)
    assert not io.exists(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "value.bin"
    io.write_bytes(path, b"old")

    def fail():
        with io.open_write(path) as stream:
            stream.write(b"new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["value.bin"]


def test_listing_is_sorted_and_never_shows_unfinished_writes(tmp_path):
    for name in ("b.png", "a.png", "c.txt"):
        io.write_bytes(tmp_path / name, b"")
    (tmp_path / "folder.png").mkdir()
    with io.open_write(tmp_path / "d.png"):
        names = [path.rsplit("/")[-1] for path in io.list_files(tmp_path / "*.png")]
    assert names == ["a.png", "b.png"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    code = f"from wsss.common import io; import os\nwith io.open_write({str(tmp_path / 'x')!r}): os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    io.remove_unfinished(tmp_path, "y")
    assert len(list(tmp_path.iterdir())) == 1
    io.remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_one_file_are_distinguished_from_others(tmp_path):
    left = [tmp_path / f".{name}.{'0' * 32}.unfinished" for name in ("x", "x.y")]
    for path in left:
        path.touch()
    io.remove_unfinished(tmp_path, "x")
    assert list(tmp_path.iterdir()) == left[1:]


def test_a_folder_is_removed_with_all_that_is_in_it(tmp_path):
    io.write_bytes(tmp_path / "folder" / "sub" / "a", b"")
    for _ in range(2):
        io.remove_tree(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_folders_with_pattern_characters_are_listed_when_escaped(tmp_path):
    io.write_bytes(tmp_path / "set[1]" / "a.png", b"")
    pattern = io.join(io.escape(tmp_path / "set[1]"), "*.png")
    assert io.list_files(pattern) == [str(tmp_path / "set[1]" / "a.png")]
    assert io.escape("gs://bucket/a*b") == "gs://bucket/a[*]b"


def test_remote_paths_are_joined_with_slashes():
    assert io.join("gs://bucket/folder/", "a", "b.png") == "gs://bucket/folder/a/b.png"
    assert io.is_remote("gs://bucket/a")
    assert not io.is_remote("folder/a:b")


def test_files_imports_neither_tensorflow_nor_beam():
    code = "import sys, wsss.common.io; print({'tensorflow', 'apache_beam'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_path_that_cannot_be_used_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("in the place of a folder")

    @program
    def main(argv=None):
        io.write_text(tmp_path / "file" / "value.txt", "value")

    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(tmp_path / "file") in line


class FlakyFile(io_module.FileIO):
    """Fails in every second read with an I/O error."""

    reads = 0

    def readinto(self, buffer):
        FlakyFile.reads += 1
        if FlakyFile.reads % 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().readinto(buffer)


def test_a_read_goes_on_where_an_error_that_passes_stopped_it(tmp_path, monkeypatch):
    data = bytes(range(256)) * 2000
    (tmp_path / "data").write_bytes(data)
    monkeypatch.setattr(io, "_PAUSES", (0, 0))
    monkeypatch.setattr(io_module, "FileIO", FlakyFile)
    assert io.read_bytes(tmp_path / "data") == data
    assert FlakyFile.reads > 4


def test_an_error_that_stays_is_raised_after_some_tries(tmp_path, monkeypatch):
    tries = []

    def fail(*arguments):
        tries.append(arguments)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(io, "_PAUSES", (0, 0))
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input/output") as raised:
        io.write_bytes(tmp_path / "data", b"")
    assert len(tries) == 3
    assert raised.value.filename == str(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_the_file_that_did_not_fit(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")

    def write():
        with io.open_write(tmp_path / "data"), open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(OSError, match="No space") as raised:
        write()
    assert raised.value.filename == str(tmp_path / "data")


@pytest.mark.parametrize("text", ["[" * 100_000, "\xff", ""])
def test_what_is_no_json_is_one_line(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="must hold JSON"):
        io.read_json(tmp_path / "a.json")


def test_json_of_another_kind_is_one_line(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(UserError, match="JSON object"):
        io.read_object(tmp_path / "a.json")


def test_a_file_that_is_cut_off_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"data": ')
    with pytest.raises(UserError, match=r"config\.json must hold JSON"):
        io.read_json(tmp_path / "config.json")


def test_half_a_character_of_json_comes_back_as_it_was(tmp_path):
    io.write_json(tmp_path / "a.json", {"detail": "size \ud800"})
    assert io.read_json(tmp_path / "a.json") == {"detail": "size \ud800"}
