"""The programs on a Flink cluster of two TaskManagers give the bytes of a local run, whatever is killed."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.engines.flink import children, wait_until, worker_pool
from tests.engines.test_prism import label_images
from tests.pseudo_label_cases import make_records, tree
from wsss.common import io
from wsss.prepare import main as prepare

pytestmark = [
    pytest.mark.engines,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
RUNNER_FLAGS = ("--object_reuse", "--max_bundle_size=2")  # which Beam's Python does not know
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
    for name, flags in (
        ("local", ()),
        ("flink", (*flink.flags, *RUNNER_FLAGS, "--environment_type=LOOPBACK")),
    ):
        assert label_images(folder, tmp_path / name, *SETTINGS[settings], *flags) == 0
    assert tree(tmp_path / "flink") == tree(tmp_path / "local")


def test_a_killed_worker_and_a_killed_task_manager_repeat_no_finished_shard(folder, tmp_path, flink):
    for record in make_records(40):
        io.write_bytes(str(tmp_path / "images" / f"{record.image_id}.png"), record.image_bytes)
    flags = ("--data", str(tmp_path / "images"), "--images_per_shard=1", "--image_labels=predicted")
    flags += ("--label_threshold=0", "--background_threshold=0.3", "--save_scores")
    assert label_images(folder, tmp_path / "local", *flags) == 0
    output, kept = tmp_path / "flink", {}

    def kill(shards, victim):
        """Kills a process when so many shards are finished; what they wrote is in `kept`."""
        wait_until(lambda: len(list(output.glob("manifests/*.json"))) >= shards, seconds=300)
        finished = {path: path.stat() for path in (output / "manifests").glob("*.json")}
        os.kill(victim(), signal.SIGKILL)
        assert len(finished) < 40
        kept.update({path: (stat.st_ino, stat.st_mtime_ns) for path, stat in finished.items()})

    # The TaskManagers share a pool here and may stop each other's workers: one more reason to repeat.
    with worker_pool(tmp_path) as (pid, port), ThreadPoolExecutor() as threads:
        workers = ("--environment_type=EXTERNAL", f"--environment_config=localhost:{port}")
        kills = [
            threads.submit(kill, 3, lambda: children(pid)[-1]),
            threads.submit(kill, 12, lambda: flink.task_managers[0].pid),
        ]
        assert label_images(folder, output, *flags, *flink.flags, *workers) == 0
        for each in kills:
            each.result()
    assert kept
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept} == kept
    assert tree(output) == tree(tmp_path / "local")
