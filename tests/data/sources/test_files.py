"""`wsss.data.sources.files`: folders with links, unreadable parts and names of all kinds."""

import os
import unicodedata

import pytest

from wsss.common import io
from wsss.common.errors import UserError
from wsss.common.output_folder import MARKER
from wsss.data.sources.files import NameHints, image_ids, list_folder, printable, stem


def make(folder, *names):
    for name in names:
        io.write_text(folder / name, "x")


def reasons(listing):
    return {problem.id: problem.reason for problem in listing.problems}


def test_a_link_that_leads_in_a_circle_is_listed_once(tmp_path):
    make(tmp_path, "a.jpg", "sub/b.jpg")
    os.symlink(tmp_path, tmp_path / "sub" / "back", target_is_directory=True)
    listing = list_folder(tmp_path)
    assert list(listing.paths) == ["a.jpg", "sub/b.jpg"]
    assert reasons(listing) == {"sub/back": "link_loop"}


def test_a_link_to_another_folder_is_followed_and_one_to_nothing_listed(tmp_path):
    make(tmp_path / "elsewhere", "c.jpg")
    make(tmp_path / "photos", "a.jpg")
    os.symlink(tmp_path / "elsewhere", tmp_path / "photos" / "more", target_is_directory=True)
    os.symlink(tmp_path / "gone.jpg", tmp_path / "photos" / "gone.jpg")
    listing = list_folder(tmp_path / "photos")
    assert list(listing.paths) == ["a.jpg", "more/c.jpg"]
    assert reasons(listing) == {"gone.jpg": "dangling_link"}


def test_a_sub_folder_that_may_not_be_read_is_listed_and_the_folder_itself_refused(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg", "closed/b.jpg")
    scandir, closed = os.scandir, str(tmp_path / "closed")

    def refuse(path):
        if str(path) == closed:
            raise PermissionError(13, "Permission denied", closed)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_folder(tmp_path)
    assert list(listing.paths) == ["a.jpg"]
    assert reasons(listing) == {"closed": "unreadable"}
    with pytest.raises(UserError, match="Permission denied"):
        list_folder(closed)


def test_results_of_wsss_and_excluded_folders_are_no_images(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg", "out/masks/a.png", "labels/masks/a.png", f"labels/{MARKER}", ".hidden/b.jpg")
    monkeypatch.chdir(tmp_path)
    os.symlink(tmp_path / "out", tmp_path / "link")
    for spelling in (tmp_path / "out", "out", "./out/", tmp_path / "link"):
        assert list(list_folder(tmp_path, [spelling]).paths) == ["a.jpg"]


def test_bytes_that_are_no_utf8_are_quoted(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    make(tmp_path, name)
    listing = list_folder(tmp_path)
    assert listing.paths == {r"caf\xe9.jpg": str(tmp_path / name)}
    assert printable("münchen.jpg") == "münchen.jpg"


def test_ids_drop_the_suffix_unless_images_differ_in_it_alone():
    assert image_ids(["a.jpg", "b.jpg", "b.PNG", "sub/a.jpg"]) == {
        "a.jpg": "a",
        "b.jpg": "b.jpg",
        "b.PNG": "b.PNG",
        "sub/a.jpg": "sub/a",
    }
    assert stem("v1.5/notes") == "v1.5/notes"


@pytest.mark.parametrize(
    ("image_id", "path", "reason"),
    [
        (unicodedata.normalize("NFD", "café"), unicodedata.normalize("NFC", "café.jpg"), "NFC or NFD"),
        ("IMG_1.JPG", "IMG_1.jpg", "upper and lower case"),
        ("7", "0007.jpg", "leading zeros"),
        ("photos/a.jpg", "a.jpg", ""),
        ("sub\\a.jpg", "sub/a.jpg", ""),
    ],
)
def test_a_file_that_was_probably_meant_is_named(image_id, path, reason):
    hint = NameHints([path, "other.jpg"])(image_id)
    assert f"`{path}`" in hint
    assert reason in hint


def test_no_file_is_suggested_where_several_or_none_are_alike():
    assert NameHints(["a.jpg", "sub/a.jpg"])("other/a") == ""
    assert NameHints(["a.jpg"])("b") == ""
