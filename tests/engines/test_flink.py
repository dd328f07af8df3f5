"""The programs on a Flink cluster of two TaskManagers give the bytes of a local run."""

import subprocess
import sys

import pytest

from tests.engines.test_prism import label_images
from tests.pseudo_label_cases import tree
from wsss.prepare import main as prepare

pytestmark = [
    pytest.mark.engines,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SETTINGS = {
    "png": ("--save_scores",),
    "tfrecord, crf, threshold chosen": (
        "--output_format=tfrecord",
        "--background_threshold=auto",
        "--refine=crf",
        "--crf_preset=fast",
    ),
}


def test_a_collection_prepared_by_the_flink_runner_has_the_bytes_of_a_local_run(folder, tmp_path, flink):
    argv = ["--images", str(folder / "images"), "--labels", str(folder / "tags.csv"), "--shards=3"]
    assert prepare([*argv, "--output", str(tmp_path / "local")]) == 0
    runner = ["--runner=FlinkRunner", f"--flink_master={flink.master}", "--parallelism=2"]
    runner += [f"--flink_job_server_jar={flink.job_server_jar}", "--environment_type=LOOPBACK"]
    command = [sys.executable, "-m", "wsss.prepare", *argv, "--output", str(tmp_path / "flink"), *runner]
    subprocess.run(command, check=True)
    assert tree(tmp_path / "flink") == tree(tmp_path / "local")


@pytest.mark.parametrize("settings", SETTINGS)
def test_labels_made_on_flink_have_the_bytes_of_a_local_run(folder, tmp_path, flink, settings):
    for name, flags in (("local", ()), ("flink", (*flink.flags, "--environment_type=LOOPBACK"))):
        assert label_images(folder, tmp_path / name, *SETTINGS[settings], *flags) == 0
    assert tree(tmp_path / "flink") == tree(tmp_path / "local")
