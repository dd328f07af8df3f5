"""Programs write only into folders of their own, and old results go when the new ones are complete."""

import json
import os

import pytest

from tests.gcs_emulator import emulated_bucket
from wsss.common import io, output_folder
from wsss.common.errors import UserError
from wsss.common.output_folder import MARKER, claim, is_inside, same_place

OWNED = ("done.json", "masks/**/*.png")


def write(folder, *names, text="old"):
    for name in names:
        io.write_text(io.join(folder, name), text)


def content(folder):
    """Relative path -> text of every file, without the marker."""
    return {
        name: io.read_text(io.join(folder, name))
        for name in output_folder._all_files(folder)
        if name != MARKER
    }


def finished(folder, kind="pseudo_labels", **options):
    """A folder that holds finished results."""
    claim(folder, kind, owned=OWNED, **options).begin()
    write(folder, "done.json", "masks/a.png", "masks/sub/b.png")
    return folder


@pytest.mark.parametrize("made", [False, True])
def test_an_empty_or_absent_folder_is_claimed_without_a_trace(tmp_path, made):
    folder = tmp_path / "out"
    if made:
        folder.mkdir()
        (folder / ".DS_Store").write_text("")
    claimed = claim(folder, "run", owned=OWNED)
    assert claimed.work == claimed.path == str(folder)
    assert not made or [path.name for path in folder.iterdir()] == [".DS_Store"]
    claimed.begin()
    assert json.loads((folder / MARKER).read_text())["kind"] == "run"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_foreign_files_is_refused(tmp_path, overwrite):
    write(tmp_path, "masks/mine.png")
    with pytest.raises(UserError, match="holds files such as masks, which wsss did not write"):
        claim(tmp_path, "pseudo_labels", owned=OWNED, overwrite=overwrite)
    assert content(tmp_path) == {"masks/mine.png": "old"}


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_not_the_current_folder(tmp_path, monkeypatch, path):
    write(tmp_path, "notes.txt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="path of the output is empty"):
        claim(path, "collection", owned=OWNED)
    assert content(tmp_path) == {"notes.txt": "old"}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    write(tmp_path, "file")
    with pytest.raises(UserError, match="is a file, not a folder"):
        claim(tmp_path / "file", "run", owned=OWNED)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    finished(tmp_path, "run")
    with pytest.raises(UserError, match="holds a training run, not pseudo labels"):
        claim(tmp_path, "pseudo_labels", owned=OWNED, overwrite=True)


def test_finished_results_stay_without_overwrite(tmp_path):
    finished(tmp_path)
    with pytest.raises(UserError, match="--overwrite"):
        claim(tmp_path, "pseudo_labels", owned=OWNED, resumes=False, complete="done.json")
    assert claim(tmp_path, "pseudo_labels", owned=OWNED).work == str(tmp_path)
    assert len(content(tmp_path)) == 3


def test_an_interrupted_run_is_cleared_of_its_own_files_only(tmp_path):
    finished(tmp_path)
    write(tmp_path, "notes.txt")
    io.remove(tmp_path / "done.json")
    folder = claim(tmp_path, "pseudo_labels", owned=OWNED, resumes=False, complete="done.json")
    assert len(content(tmp_path)) == 3
    folder.begin(clear=True)
    assert content(tmp_path) == {"notes.txt": "old"}


def replace(folder):
    claimed = claim(folder, "pseudo_labels", owned=OWNED, overwrite=True)
    claimed.begin(clear=True)
    write(claimed.work, "masks/a.png", "masks/c.png", "done.json", text="new")
    return claimed


def check_replaced(folder):
    new = dict.fromkeys(("done.json", "masks/a.png", "masks/c.png"), "new")
    assert content(folder) == {"notes.txt": "old", **new}


def test_old_results_stay_until_the_new_ones_are_published(tmp_path):
    finished(tmp_path)
    write(tmp_path, "notes.txt")
    old = content(tmp_path)
    claimed = replace(tmp_path)
    now = content(tmp_path)
    assert {name: now[name] for name in old} == old
    claimed.publish()
    check_replaced(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_a_complete_output_does_not_name_is_the_users(tmp_path, overwrite):
    written = ["done.json", "masks/a.png", "masks/sub/b.png"]
    finished(tmp_path)
    write(tmp_path, "masks/mine.png", text="mine")
    options = {"owned": OWNED, "written": lambda folder: written, "overwrite": overwrite}
    claimed = claim(tmp_path, "pseudo_labels", **options)
    assert claimed.kept == {"masks/mine.png"}
    claimed.begin(clear=True)
    options["written"] = lambda folder: None  # interrupted: now the marker lists them
    claimed = claim(tmp_path, "pseudo_labels", **options)
    assert claimed.kept == {"masks/mine.png"}
    write(claimed.work, "masks/c.png", "done.json", text="new")
    claimed.publish()
    claimed.clear()
    assert content(tmp_path)["masks/mine.png"] == "mine"


@pytest.mark.parametrize("calls", range(6))
def test_publishing_is_completed_after_a_kill(tmp_path, monkeypatch, calls):
    """Whichever call of the file system was the last one, the next `claim` finishes what was begun."""
    finished(tmp_path)
    write(tmp_path, "notes.txt")
    claimed, left = replace(tmp_path), iter(range(calls))

    def killed(function):
        def call(*arguments):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    with monkeypatch.context() as patch:
        for module, name in ((os, "remove"), (os, "replace")):
            patch.setattr(module, name, killed(getattr(module, name)))
        with pytest.raises(KeyboardInterrupt):
            claimed.publish()
    if (tmp_path / ".new" / ".ready").exists():
        claim(tmp_path, "pseudo_labels", owned=OWNED)
        check_replaced(tmp_path)
    else:
        assert content(tmp_path)["masks/a.png"] == "old"


def test_overwrite_of_an_empty_folder_writes_to_it(tmp_path):
    assert claim(tmp_path, "run", owned=OWNED, overwrite=True).work == str(tmp_path)


@pytest.mark.parametrize(
    "spelling", ["data", "./data", "data/", "other/../data", "link", "link/", "{here}/data", "data/."]
)
def test_an_output_that_is_the_input_is_refused_however_it_is_written(tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("data")
    with pytest.raises(UserError, match="is also the input"):
        claim(spelling.format(here=tmp_path), "collection", owned=OWNED, inputs=["data"])


def test_an_output_that_is_the_input_is_refused_before_it_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is also the input"):
        claim("./data/", "collection", owned=OWNED, inputs=[tmp_path / "data"])


def test_case_does_not_part_an_output_from_its_input(tmp_path, monkeypatch):
    """As on a file system that ignores case, here one by hand."""
    (tmp_path / "data").mkdir()
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **kw: stat(str(path).lower(), **kw))
    assert same_place(tmp_path / "data", tmp_path / "DATA")
    assert is_inside(tmp_path / "DATA" / "new", tmp_path / "data")


def test_an_input_among_the_files_of_the_output_is_refused(tmp_path):
    finished(tmp_path)
    for given in (tmp_path / "masks", tmp_path / "masks" / "a.png", tmp_path / "done.json"):
        with pytest.raises(UserError, match="lies among the files"):
            claim(tmp_path, "pseudo_labels", owned=OWNED, inputs=[given])
    claim(tmp_path, "pseudo_labels", owned=OWNED, inputs=[tmp_path / "data", ""])


def test_an_output_may_lie_in_the_folder_of_an_input(tmp_path):
    write(tmp_path, "dataset_info.json")
    claim(tmp_path / "labels", "pseudo_labels", owned=OWNED, inputs=[tmp_path])


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("gs://b/x", "gs://b//x/", True),
        ("gs://b/x", "GS://B/./x", True),
        ("gs://b/x", "gs://b/X", False),
        ("gs://b/x", "s3://b/x", False),
        ("gs://b/x", "b/x", False),
        ("gs://b", "gs://b/", True),
    ],
)
def test_remote_places_are_compared_by_bucket_and_parts(first, second, same):
    assert same_place(first, second) is same


def test_containment_is_by_whole_parts():
    assert is_inside("gs://b/x/y", "gs://b//x")
    assert not is_inside("gs://b/xy", "gs://b/x")
    assert is_inside("/a/b/c", "/a/b/")
    assert not is_inside("/a/bc", "/a/b")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "{",
        '{"kind": "other", "version": "1", "owned": []}',
        '{"kind": "run", "version": "1", "owned": ["../*"]}',
        '{"kind": "run", "version": "1", "owned": ["**"]}',
        '{"kind": "run", "version": "1", "owned": ["/etc/*"]}',
        '{"kind": "run", "version": 1, "owned": [1]}',
    ],
)
def test_a_damaged_marker_is_one_line(tmp_path, text):
    write(tmp_path, MARKER, text=text)
    with pytest.raises(UserError, match=MARKER):
        claim(tmp_path, "run", owned=OWNED, overwrite=True)


def json_file(folder, name, value):
    io.write_text(io.join(folder, name), json.dumps(value))


def old_collection(folder):
    description = "Images with image-level labels, made by wsss.prepare."
    json_file(folder, "dataset_info.json", {"name": "birds", "description": description})
    write(folder, "birds-train.tfrecord-00000-of-00001", "labels.labels.txt")


def old_collection_unfinished(folder):
    write(
        folder, ".plan/birds-train.tfrecord-00000-of-00001.plan.json", "birds-train.tfrecord-00000-of-00001"
    )


def old_run(folder):
    json_file(folder, "config.json", {"program": "wsss.train"})
    write(folder, "model.keras", "history.csv", "checkpoint/state.npz")


def old_labels(folder):
    json_file(folder, "options.json", {"options": {}, "model_hash": "", "class_names": []})
    write(folder, "manifests/train-00000-of-00001.json", "masks/sub/a.png", "summary.json")


def old_evaluation(folder):
    json_file(folder, "metrics.json", {"undecided_counts_as": "wrong", "classes": {}, "miou": 0.5})
    write(folder, "classes.csv")


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("collection", old_collection),
        ("collection", old_collection_unfinished),
        ("run", old_run),
        ("pseudo_labels", old_labels),
        ("evaluation", old_evaluation),
    ],
)
def test_outputs_of_the_first_version_are_recognized(tmp_path, kind, make):
    make(tmp_path)
    write(tmp_path, "notes.txt")
    claimed = claim(tmp_path, kind, owned=OWNED, overwrite=True)
    assert set(content(tmp_path)) - set(claimed.files()) == {"notes.txt"}
    other = "run" if kind != "run" else "collection"
    with pytest.raises(UserError, match="not a"):
        claim(tmp_path, other, owned=OWNED)


def test_a_data_set_of_others_is_foreign(tmp_path):
    json_file(tmp_path, "dataset_info.json", {"name": "voc", "description": "The PASCAL challenge."})
    with pytest.raises(UserError, match="did not write"):
        claim(tmp_path, "collection", owned=OWNED, overwrite=True)


@pytest.mark.slow
def test_remote_folders_are_claimed_and_replaced_like_local_ones(monkeypatch):
    with emulated_bucket(monkeypatch) as bucket:
        write(bucket, "foreign/masks/mine.png")
        with pytest.raises(UserError, match="did not write"):
            claim(io.join(bucket, "foreign"), "pseudo_labels", owned=OWNED)
        with pytest.raises(UserError, match="is also the input"):
            claim(f"{bucket}//out/", "pseudo_labels", owned=OWNED, inputs=[f"{bucket}/out"])
        folder = finished(io.join(bucket, "out"))
        write(folder, "notes.txt")
        with pytest.raises(UserError, match="--overwrite"):
            claim(folder, "pseudo_labels", owned=OWNED, resumes=False, complete="done.json")
        old = content(folder)
        claimed = replace(folder)
        assert claimed.work == f"{bucket}/out/.new"
        now = content(folder)
        assert {name: now[name] for name in old} == old
        claimed.publish()
        check_replaced(folder)
