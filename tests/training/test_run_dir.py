"""Run directories: where a run goes, and how the same command finds it again."""

import dataclasses

import pytest

from wsss.common import io
from wsss.common.errors import UserError
from wsss.training.options import TrainingOptions
from wsss.training.run_dir import open_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def leave_a_run(options, status=None):
    """What a run of these options leaves behind: unfinished without a status."""
    run = open_run(options)
    recorded = dataclasses.asdict(options)
    io.write_json(run.config, {"options": recorded})
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
