"""Run directories: where a run goes, and how the same command finds it again."""

import dataclasses

import pytest

from wsss.common import io
from wsss.common.errors import UserError
from wsss.data.dataset import open_collection
from wsss.data.synthetic import write_synthetic_collection
from wsss.training.options import TrainingOptions
from wsss.training.run_dir import open_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def leave_a_run(options, status=None, collection=None):
    """What a run of these options leaves behind: unfinished without a status."""
    run = open_run(options, collection)
    content = {"program": "wsss.train", "options": dataclasses.asdict(options), "device": {"device": "cpu"}}
    io.write_json(run.config, {**content, **run.data})
    if status:
        io.write_json(run.result, {"status": status})
    return run


def test_runs_are_numbered(runs):
    options = TrainingOptions(model="seam")
    assert leave_a_run(options, "finished").path == "runs/seam-1"
    assert open_run(options).path == "runs/seam-2"
    assert open_run(TrainingOptions(model="classifier")).path == "runs/classifier-1"


def test_an_unfinished_run_of_the_same_options_is_gone_on_with(runs):
    options = TrainingOptions()
    run = leave_a_run(options)
    assert open_run(options) == run
    assert open_run(dataclasses.replace(options, seed=1)) != run
    assert open_run(dataclasses.replace(options, overwrite=True)) != run


def test_a_run_of_0_1_0_knows_no_choice_by_device_and_keeps_its_number_format(tmp_path):
    options = TrainingOptions(output=str(tmp_path / "run"))
    run = leave_a_run(dataclasses.replace(options, mixed_precision="bfloat16", jit_compile=True))
    config = io.read_json(run.config)
    del config["device"], config["options"]["steps_per_execution"]
    io.write_json(run.config, config)
    assert open_run(options) == run
    assert run.device_settings == {"mixed_precision": "bfloat16", "jit_compile": True}
    with pytest.raises(UserError, match="--mixed_precision bfloat16 there, none here"):
        open_run(dataclasses.replace(options, mixed_precision="none"))


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("options", 3, "options"),
        ("options", [], "options"),
        ("device", "cpu", "device"),
        ("device", {"mixed_precision": "float7"}, "mixed_precision"),
        ("device", {"jit_compile": 1}, "jit_compile"),
        ("class_names", {"cat": 1}, "class_names"),
    ],
)
@pytest.mark.parametrize("output", ["here", ""])
def test_a_damaged_config_is_one_line(runs, output, field, value, named):
    options = TrainingOptions(output=output)
    run = leave_a_run(options)
    io.write_json(run.config, {**io.read_json(run.config), field: value})
    with pytest.raises(UserError, match=rf"config\.json is damaged: `{named}`"):
        open_run(options)
    with pytest.raises(UserError, match=rf"config\.json is damaged: `{named}`"):
        _ = run.device_settings


@pytest.mark.parametrize("field", ["options", "device", "class_names"])
def test_a_field_of_a_config_that_is_null_is_as_if_it_were_missing(tmp_path, field):
    options = TrainingOptions(output=str(tmp_path / "run"))
    run = leave_a_run(options)
    config = io.read_json(run.config)
    io.write_json(run.config, {**config, field: None})
    if field == "options":
        with pytest.raises(UserError, match="of other options"):
            open_run(options)
    else:
        assert open_run(options) == run


def test_a_named_folder_with_a_run_of_other_options_is_an_error_that_names_the_option(tmp_path):
    options = TrainingOptions(output=str(tmp_path / "run"))
    run = leave_a_run(options)
    assert open_run(options) == run
    other = dataclasses.replace(options, long_side=(100, 200))
    with pytest.raises(UserError, match="--long_side"):
        open_run(other)
    fresh = open_run(dataclasses.replace(other, overwrite=True))
    assert fresh == run
    fresh.clear()
    assert not io.exists(fresh.config)


def test_a_stopped_run_is_not_finished(tmp_path):
    options = TrainingOptions(output=str(tmp_path / "run"))
    assert not leave_a_run(options, "stopped").is_finished()
    assert leave_a_run(options, "finished").is_finished()


def drawn(folder, **arguments):
    return write_synthetic_collection(str(folder), images=6, size=32, **arguments)


@pytest.mark.parametrize("status", [None, "finished"])
def test_a_run_is_not_resumed_over_other_data(tmp_path, status):
    collection = drawn(tmp_path / "data", classes=2)
    options = TrainingOptions(data=collection.directory, output=str(tmp_path / "run"))
    run = leave_a_run(options, status, collection)
    assert open_run(options, collection) == run
    changed = drawn(tmp_path / "data", classes=2, seed=1)  # as many images, other ones
    with pytest.raises(UserError, match="on other data"):
        open_run(options, changed)
    names = tmp_path / "data" / "labels.labels.txt"
    names.write_text("\n".join(reversed(collection.class_names)))
    with pytest.raises(UserError, match="other classes"):
        open_run(options, open_collection(collection.directory))
    replaced = open_run(dataclasses.replace(options, overwrite=True), changed)
    assert replaced.path == run.path
    assert not io.exists(replaced.config)  # it is not trained on the old run's state …
    assert io.exists(run.config)  # … which stays until the new one is complete


def test_a_numbered_run_on_other_data_is_another_run(runs, tmp_path):
    collection = drawn(tmp_path / "data", seed=0)
    options = TrainingOptions(data=collection.directory)
    run = leave_a_run(options, None, collection)
    assert open_run(options, collection) == run
    assert open_run(options, drawn(tmp_path / "data", seed=1)).path == "runs/seam-2"


def test_a_missing_shard_is_one_line(tmp_path):
    collection = drawn(tmp_path / "data")
    io.remove(collection.shard_paths("train")[0])
    with pytest.raises(UserError, match="is missing"):
        open_run(TrainingOptions(data=collection.directory, output=str(tmp_path / "run")), collection)


def test_files_of_others_are_not_overwritten(tmp_path):
    io.write_text(tmp_path / "run" / "model.keras", "mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="did not write"):
            open_run(TrainingOptions(output=str(tmp_path / "run"), overwrite=overwrite))
