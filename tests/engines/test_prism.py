"""The programs on Prism, Beam's portable runner in a process of its own, give the bytes of a local run."""

import errno
import os
import re

import pytest

from tests.pseudo_label_cases import tree
from wsss.pipeline.output import Layout
from wsss.pipeline.stages.manifest import read_manifests
from wsss.prepare import main as prepare
from wsss.pseudo_labels import main as label
from wsss.relabel import main as relabel

# Prism is ended while workers in this process still answer it, and their threads report that.
pytestmark = [
    pytest.mark.engines,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SETTINGS = {
    "png": ("--save_scores",),
    "tfrecord, threshold chosen": ("--output_format=tfrecord", "--background_threshold=auto"),
    "crf": ("--refine=crf", "--crf_preset=fast"),
}


def label_images(folder, output, *flags):
    return label(["--model", str(folder / "run"), "--scales=0.5,1", "--output", str(output), *flags])


def labeled_images(output):
    manifests = read_manifests(Layout(str(output))).values()
    return {image_id for manifest in manifests for image_id in manifest.image_ids}


def test_a_collection_prepared_on_prism_has_the_bytes_of_a_local_run(folder, tmp_path, prism):
    argv = ["--images", str(folder / "images"), "--labels", str(folder / "tags.csv"), "--shards=3"]
    for name, flags in (("local", ()), ("prism", prism)):
        assert prepare([*argv, "--output", str(tmp_path / name), *flags]) == 0
    assert tree(tmp_path / "prism") == tree(tmp_path / "local")


@pytest.mark.parametrize("settings", SETTINGS)
def test_labels_made_on_prism_have_the_bytes_of_a_local_run(folder, tmp_path, prism, settings):
    for name, flags in (("local", ()), ("prism", prism)):
        assert label_images(folder, tmp_path / name, *SETTINGS[settings], *flags) == 0
    assert tree(tmp_path / "prism") == tree(tmp_path / "local")


def test_masks_made_anew_on_prism_have_the_bytes_of_a_local_run(folder, tmp_path, prism):
    assert label_images(folder, tmp_path / "labels", "--save_scores") == 0
    change = ("--background_threshold=auto", "--refine=crf", "--crf_preset=fast")
    for name, flags in (("local", ()), ("prism", prism)):
        output = ("--output", str(tmp_path / name))
        assert relabel([str(tmp_path / "labels"), *output, *change, *flags]) == 0
    assert tree(tmp_path / "prism") == tree(tmp_path / "local")


def test_a_job_that_failed_on_prism_keeps_its_finished_shards(folder, tmp_path, prism, monkeypatch, capfd):
    flags = ("--data", str(folder / "images"), "--images_per_shard=1", "--image_labels=predicted")
    flags += ("--label_threshold=0", "--save_scores", *prism)
    written, write = [], Layout.scores

    def fail(layout, image_id):
        if len(written) == 8:
            raise OSError(errno.EIO, os.strerror(errno.EIO), image_id)
        written.append(image_id)
        return write(layout, image_id)

    with monkeypatch.context() as patch:
        patch.setattr(Layout, "scores", fail)
        assert label_images(folder, tmp_path / "labels", *flags) == 2
    assert re.search(r"error: The job job-\d+ failed: image_\d+: Input/output error", capfd.readouterr().err)
    finished = labeled_images(tmp_path / "labels")
    assert finished
    files = [tmp_path / "labels" / "scores" / f"{image_id}.npz" for image_id in finished]
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files]
    assert label_images(folder, tmp_path / "labels", *flags) == 0
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files] == before
    assert len(labeled_images(tmp_path / "labels")) == 12
