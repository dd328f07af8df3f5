"""The programs submit to Dataflow's API on loopback, and the graphs that arrive there are run."""

import _thread
import errno
import os
import re
import signal
import tarfile

import pytest
from google.cloud.dataflow_v1beta3 import JobType

from tests.dataflow_emulator import emulated_dataflow
from tests.gcs_emulator import emulated_bucket
from tests.pseudo_label_cases import make_records, write_affinity_run, write_collection, write_run
from wsss.common import io
from wsss.pipeline.output import Layout
from wsss.prepare import main as prepare
from wsss.pseudo_labels import main as label

pytestmark = pytest.mark.slow
IMAGE = "us-docker.pkg.dev/wsss-project/images/wsss:1"
SETTINGS = {
    "threshold chosen": ("--background_threshold=auto", "--save_scores"),
    "walk and crf": ("--refine=walk,crf", "--crf_preset=fast", "--affinity_model=BUCKET/affinity"),
    "tfrecord": ("--output_format=tfrecord",),
}


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    with emulated_bucket(monkeypatch) as path:
        write_collection(f"{path}/data", make_records())
        (tmp_path / "affinity").mkdir()
        for folder in (write_run(tmp_path, f"{path}/data"), write_affinity_run(tmp_path / "affinity")):
            name = "affinity" if folder.name == "affinity" else "run"
            for file in filter(os.path.isfile, folder.iterdir()):
                io.write_bytes(f"{path}/{name}/{file.name}", file.read_bytes())
        yield path


@pytest.fixture
def dataflow(monkeypatch):
    with emulated_dataflow(monkeypatch) as service:
        yield service


def tree(folder):
    """Relative path -> bytes of every file below a path of the bucket."""
    return {path.removeprefix(folder): io.read_bytes(path) for path in io.list_files(f"{folder}/**")}


def label_images(bucket, output, *flags):
    argv = ["--model", f"{bucket}/run", "--data", f"{bucket}/data", "--scales=0.5,1"]
    return label([*argv, "--output", f"{bucket}/{output}", *flags])


def on_dataflow(bucket, dataflow):
    return (*dataflow.flags, f"--temp_location={bucket}/temp", f"--sdk_container_image={IMAGE}")


def prepare_images(bucket, images, output, *flags):
    rows = ["id,cat,dog,cow"]
    for record in make_records(images):
        io.write_bytes(f"{bucket}/photos_{images}/{record.image_id}.png", record.image_bytes)
        rows.append(f"{record.image_id},{','.join(str(int(k in record.labels)) for k in range(3))}")
    io.write_text(f"{bucket}/tags.csv", "\n".join(rows))
    argv = ["--images", f"{bucket}/photos_{images}", "--labels", f"{bucket}/tags.csv", "--shards=3"]
    return prepare([*argv, "--output", f"{bucket}/{output}", *flags])


def test_a_collection_prepared_on_dataflow_has_the_bytes_of_a_local_run(bucket, dataflow):
    for name, flags in (("local", ()), ("cloud", on_dataflow(bucket, dataflow))):
        assert prepare_images(bucket, 12, name, *flags) == 0
    assert dataflow.jobs
    assert tree(f"{bucket}/cloud") == tree(f"{bucket}/local")


def test_more_images_make_no_larger_graph(bucket, dataflow):
    for images in (6, 24):
        assert prepare_images(bucket, images, f"shards_{images}", *on_dataflow(bucket, dataflow)) == 0
    dataflow.holds = True
    (image,) = make_records(1)
    for images in (129, 257):
        for index in range(images):
            io.write_bytes(f"{bucket}/folder_{images}/photo_{index}.png", image.image_bytes)
        data = ("--data", f"{bucket}/folder_{images}", "--images_per_shard=1", "--image_labels=predicted")
        flags = (*data, "--background_threshold=0.3", "--detach", *on_dataflow(bucket, dataflow))
        assert label_images(bucket, f"labels_{images}", *flags) == 0
    prepared, prepared_more, labeled, labeled_more = (job.graph.ByteSize() for job in dataflow.jobs)
    assert prepared_more - prepared < 100
    # By the path of one plan file of 128 shards: 123 of them for 1,000,000 images, 64 a shard.
    assert 0 < labeled_more - labeled < 500


@pytest.mark.parametrize("settings", SETTINGS)
def test_labels_made_on_dataflow_have_the_bytes_of_a_local_run(bucket, dataflow, settings):
    own = tuple(flag.replace("BUCKET", bucket) for flag in SETTINGS[settings])
    for name, flags in (("local", ()), ("cloud", on_dataflow(bucket, dataflow))):
        assert label_images(bucket, name, *own, *flags) == 0
    assert [job.state for job in dataflow.jobs] == ["JOB_STATE_DONE"] * (2 if "chosen" in settings else 1)
    assert tree(f"{bucket}/cloud") == tree(f"{bucket}/local")


def test_a_job_that_failed_is_one_line_and_the_same_command_does_the_rest(
    bucket, dataflow, monkeypatch, capfd
):
    written, write = [], Layout.scores

    def fail(layout, image_id):
        if len(written) == 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), image_id)
        written.append(image_id)
        return write(layout, image_id)

    flags = ("--save_scores", *on_dataflow(bucket, dataflow))
    with monkeypatch.context() as patch:
        patch.setattr(Layout, "scores", fail)
        assert label_images(bucket, "labels", *flags) == 2
    said = capfd.readouterr().err
    page = f"https://console.cloud.google.com/dataflow/jobs/us-central1/{dataflow.jobs[0].id}?project=wsss-project"
    assert re.search(rf"error: The job 2026\S+-0 failed: .*No space left.* See {re.escape(page)}", said)
    finished = {path: io.read_bytes(path) for path in io.list_files(f"{bucket}/labels/manifests/*.json")}
    assert 0 < len(finished) < 3
    again = []
    monkeypatch.setattr(Layout, "scores", lambda layout, name: again.append(name) or write(layout, name))
    assert label_images(bucket, "labels", *flags) == 0
    assert 0 < len(again) < 12


@pytest.fixture
def interruptible():
    """A process that was started in the background may ignore Ctrl-C, as a shell asks of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_cancels_the_job(bucket, dataflow, capfd):
    dataflow.holds = True
    dataflow.on_poll = lambda: (setattr(dataflow, "on_poll", lambda: None), _thread.interrupt_main())
    assert label_images(bucket, "labels", *on_dataflow(bucket, dataflow)) == 130
    assert [job.state for job in dataflow.jobs] == ["JOB_STATE_CANCELLED"]
    assert "Interrupted; finished shards are kept" in capfd.readouterr().out


@pytest.mark.parametrize("status", [400, 403, 404])
def test_what_dataflow_refuses_is_one_line(bucket, dataflow, capfd, status):
    dataflow.refusal = status, "The API is not enabled in this project."
    assert label_images(bucket, "labels", *on_dataflow(bucket, dataflow)) == 2
    said = capfd.readouterr().err
    assert "error: " in said
    assert "The API is not enabled in this project." in said.splitlines()[-1]
    assert "Traceback" not in said


def test_a_job_names_its_image_and_files_and_asks_for_the_machine(bucket, dataflow, tmp_path):
    dataflow.holds = True
    package = tmp_path / "extra-1.0.tar.gz"
    with tarfile.open(package, "w:gz") as archive:
        archive.add(__file__, "extra/extra.py")
    accelerator = "type:nvidia-l4;count:1;install-nvidia-driver"
    machine = ("--machine_type=g2-standard-8", "--max_num_workers=50", f"--extra_package={package}")
    flags = ("--detach", f"--accelerator={accelerator}", *machine, *on_dataflow(bucket, dataflow))
    assert label_images(bucket, "labels", *flags) == 0
    (job,) = dataflow.jobs
    (pool,) = job.environment["workerPools"]
    assert job.description["type"] == JobType.JOB_TYPE_BATCH
    assert pool["machineType"] == "g2-standard-8"
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 50
    assert {each["containerImage"] for each in pool["sdkHarnessContainerImages"]} == {IMAGE}
    names = {each["name"] for each in pool["packages"]}
    assert package.name in names
    for each in pool["packages"]:
        assert io.exists(each["location"].replace("storage.googleapis.com/", "gs://"))
    assert job.graph.ByteSize() < 100_000
    hints = [each.resource_hints for each in job.graph.components.environments.values()]
    assert [accelerator.encode()] in [list(each.values()) for each in hints]
    assert job.options["dataflow_endpoint"].startswith("http://localhost")
