"""What Dataflow would be given: nothing is submitted, and its storage is the emulator's."""

import json

import pytest
from apache_beam.portability.api import beam_runner_api_pb2

from tests.gcs_emulator import emulated_bucket
from tests.pseudo_label_cases import make_records, write_collection, write_run
from wsss.common import io
from wsss.pipeline.stages.plan_files import read_plan
from wsss.prepare import main as prepare
from wsss.pseudo_labels import main

pytestmark = pytest.mark.slow
CLOUD = (
    "--runner=DataflowRunner",
    "--project=wsss-project",
    "--region=us-central1",
    "--sdk_location=container",
)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    with emulated_bucket(monkeypatch) as path:
        write_collection(f"{path}/data", make_records())
        for file in write_run(tmp_path, f"{path}/data").iterdir():
            io.write_bytes(f"{path}/run/{file.name}", file.read_bytes())
        yield path


def submit(bucket, *flags):
    paths = [f"--{name}={bucket}/{name}" for name in ("temp_location", "data", "output")]
    return main([*CLOUD, *paths, f"--model={bucket}/run", *flags])


def test_a_dry_run_and_a_template_end_well_and_label_nothing(bucket, capsys):
    assert submit(bucket, "--dry_run=True") == 0
    assert submit(bucket, f"--template_location={bucket}/template.json") == 0
    said = capsys.readouterr().out
    assert "a dry run; no image is labeled" in said
    assert "a template; no image is labeled" in said
    assert "report" not in said.lower()
    assert json.loads(io.read_bytes(f"{bucket}/template.json"))["type"] == "JOB_TYPE_BATCH"


def test_the_graph_is_small_and_asks_for_the_accelerator_in_every_stage_of_a_shard(bucket):
    accelerator = "type:nvidia-l4;count:1;install-nvidia-driver"
    template = f"--template_location={bucket}/template.json"
    assert submit(bucket, template, "--refine=pamr,crf", f"--accelerator={accelerator}") == 0
    (path,) = io.list_files(f"{bucket}/temp_location/*/pipeline.pb")
    graph = beam_runner_api_pb2.Pipeline.FromString(io.read_bytes(path))
    assert graph.ByteSize() < 100_000
    content = json.loads(io.read_bytes(f"{bucket}/template.json"))
    assert "no_use_multiple_sdk_containers" in content["environment"]["experiments"]
    components = graph.components
    stages = [
        each
        for each in components.transforms.values()
        if each.unique_name.startswith("LabelShards/") and each.spec.urn == "beam:transform:pardo:v1"
    ]
    names = " ".join(each.unique_name for each in stages)
    assert all(
        name in names for name in ("ReadBatches", "RunInference", "RefinePAMR", "RefineCRF", "WriteImages")
    )
    for stage in stages:
        hints = components.environments[stage.environment_id].resource_hints
        assert list(hints.values()) == [accelerator.encode()], stage.unique_name


def test_the_graph_holds_no_name_of_an_image_of_a_folder_and_the_plan_beside_the_output_all(bucket):
    images = {f"photo_{index:02d}": record.image_bytes for index, record in enumerate(make_records(12))}
    for name, image in images.items():
        io.write_bytes(f"{bucket}/photos/{name}.png", image)
    template = f"--template_location={bucket}/template.json"
    flags = ("--images_per_shard=2", "--image_labels=predicted")
    assert submit(bucket, template, f"--data={bucket}/photos", *flags) == 0
    (path,) = io.list_files(f"{bucket}/temp_location/*/pipeline.pb")
    assert b"photo_" not in io.read_bytes(path)
    (plan,) = io.list_files(f"{bucket}/output/.plan/*.json")
    shards = list(read_plan(plan))
    assert len(shards) == 6
    paths = dict(pair for shard in shards for pair in shard.image_paths)
    assert paths == {name: f"{bucket}/photos/{name}.png" for name in images}


def test_what_is_chosen_by_a_job_of_its_own_does_not_go_with_a_template(bucket, capsys):
    assert submit(bucket, "--dry_run=True", "--background_threshold=auto") == 2
    assert "Name the threshold" in capsys.readouterr().err


def test_flags_that_dataflow_misses_and_local_paths_are_one_line(bucket, tmp_path, capsys):
    assert submit(bucket, "--project=Not A Project") == 2
    assert "Invalid Project ID" in capsys.readouterr().err
    argv = ["--images", str(tmp_path), "--labels", str(tmp_path / "tags.csv"), "--output", f"{bucket}/shards"]
    assert prepare([*argv, *CLOUD, f"--temp_location={bucket}/temp"]) == 2
    assert "`--images` must be a path that Dataflow's workers reach" in capsys.readouterr().err
