"""`python -m wsss.run`: which steps there are, which are skipped, and the whole way, small."""

import itertools
import os
import shutil

import pytest

import wsss.project
from tests.test_examples import example
from tests.training.small_runs import draw_collection
from wsss.common import io
from wsss.common.errors import UserError
from wsss.data.dataset import open_collection
from wsss.project import ProjectOptions, carry_out, carry_out_project, plan_steps
from wsss.run import main, make_parser

SMALL = "--output_stride 8 --image_size 32 --long_side 32,40 --batch_size 4 --epochs 1 --learning_rate 0.003"
FLAGS = [
    *("--backbone", "small", "--backbone_weights", "none", "--cam_options", f"{SMALL} --optimizer adamw"),
    *("--segmentation_options", SMALL, "--label_options", "--scales 1 --previews 0"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_collection(tmp_path_factory.mktemp("data"))


@pytest.fixture
def calls(monkeypatch):
    """The calls of the programs, in place of running them; a result is what marks a step as finished."""
    made = []

    def fake(file):
        def run(arguments, announce):
            made.append(arguments)
            output = arguments[arguments.index("--output") + 1]
            io.write_text(os.path.join(output, "model.keras"), " ".join(arguments))
            io.write_json(os.path.join(output, file), {})

        return run

    programs = {"train": fake("result.json"), "pseudo_labels": fake("summary.json")}
    monkeypatch.setattr(wsss.project, "_PROGRAMS", programs)
    return made


def carry_out_all(options, collection):
    for step in plan_steps(options, has_val=True):
        carry_out(step, options.output, collection, lambda line: None)


def names(options, has_val=True):
    return [step.name for step in plan_steps(options, has_val)]


def test_the_walk_takes_two_more_steps_and_the_validation_images_one():
    plain = ProjectOptions(data="shards")
    assert names(plain) == ["cams", "labels", "segmentation", "val_masks"]
    assert names(plain, has_val=False) == ["cams", "labels", "segmentation"]
    walked = ProjectOptions(data="shards", refine="walk,crf")
    assert names(walked)[:4] == ["cams", "affinity_labels", "affinity", "labels"]
    for step in plan_steps(walked, True):
        assert all(f"{walked.output}/{need}" in step.arguments for need in step.needs), step.name


def test_finished_steps_are_skipped(data, tmp_path, calls):
    options, collection = ProjectOptions(data=data, output=str(tmp_path / "project")), open_collection(data)
    carry_out_all(options, collection)
    assert len(calls) == 4
    carry_out_all(options, collection)
    assert len(calls) == 4


def test_determinism_is_set_before_any_step(data, tmp_path, calls, monkeypatch):
    """Also where the training that asks for it comes after a labeling, as of a project that was stopped."""
    from wsss.training import building

    monkeypatch.setattr(building, "make_deterministic", lambda: calls.append("set"))
    monkeypatch.setattr(wsss.project, "read_summary", lambda folder: (None, None))
    flags = {"data": data, "output": str(tmp_path / "project")}
    carry_out_project(ProjectOptions(**flags), lambda line: None)
    assert "set" not in calls
    calls.clear()
    carry_out_project(ProjectOptions(**flags, segmentation_options="--deterministic"), lambda line: None)
    assert calls[0] == "set"
    assert len(calls) == 3


def test_a_changed_step_replaces_its_results_and_those_made_from_them(data, tmp_path, calls):
    options, collection = ProjectOptions(data=data, output=str(tmp_path / "project")), open_collection(data)
    carry_out_all(options, collection)
    carry_out_all(ProjectOptions(data=data, output=options.output, label_options="--scales 2"), collection)
    again = [arguments[arguments.index("--output") + 1] for arguments in calls[4:]]
    # the stand-in writes other labels; the later steps read other inputs then
    assert [os.path.basename(path) for path in again] == ["labels", "segmentation", "val_masks"]
    assert all("--overwrite" in arguments for arguments in calls[4:])
    assert not any("--overwrite" in arguments for arguments in calls[:4])


def test_a_step_that_was_killed_while_it_replaced_others_goes_on(data, tmp_path, calls, monkeypatch):
    options, collection = ProjectOptions(data=data, output=str(tmp_path / "project")), open_collection(data)
    carry_out_all(options, collection)
    changed = ProjectOptions(data=data, output=options.output, segmentation_options="--epochs 9")

    def killed(arguments, announce):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(wsss.project._PROGRAMS, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            carry_out_all(changed, collection)
    carry_out_all(changed, collection)
    assert "--overwrite" in calls[4]
    assert "segmentation" in calls[4][calls[4].index("--output") + 1]
    assert len(calls) == 6  # and the masks that it makes


def test_a_step_that_was_killed_at_first_goes_on_without_replacing(data, tmp_path, calls, monkeypatch):
    options, collection = ProjectOptions(data=data, output=str(tmp_path / "project")), open_collection(data)

    def killed(arguments, announce):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(wsss.project._PROGRAMS, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            carry_out_all(options, collection)
    carry_out_all(options, collection)
    assert "--overwrite" not in calls[0]


def test_a_mistake_is_one_line(data, tmp_path, capsys):
    assert main(["--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "project")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No collection at" in line
    flags = ["--data", data, "--output", str(tmp_path / "project"), "--cam_options", "--epochs 0"]
    assert main(flags) == 2
    assert "--epochs" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_from_tags_to_a_segmentation_network_and_again(data, tmp_path, capsys):
    project = tmp_path / "project"
    arguments = ["--data", data, "--output", str(project), *FLAGS]
    assert main(arguments) == 0
    written = capsys.readouterr().out
    assert "% mIoU on train" in written
    assert "% mIoU on val" in written
    assert len(list((project / "labels" / "masks").glob("*.png"))) == 16
    assert len(list((project / "val_masks" / "masks").glob("*.png"))) == 4
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("is done already") == 4


@pytest.mark.slow
def test_the_example_of_the_function_runs(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, "shards")
    os.mkdir("photos")
    for record in itertools.islice(open_collection(data).read("val"), 3):
        io.write_bytes(f"photos/{record.image_id}.png", record.image_bytes)
    values = vars(make_parser().parse_args(["--data", "shards", *FLAGS]))
    small = {name: value for name, value in values.items() if name not in ("data", "output")}
    run = wsss.run_project
    monkeypatch.setattr(
        wsss, "run_project", lambda data, output, **_: run(data, output, **small), raising=False
    )
    exec(compile(example(run), "run_project", "exec"), {"wsss": wsss})
    assert len(list((tmp_path / "masks" / "masks").glob("*.png"))) == 3


@pytest.mark.slow
def test_the_function_says_why_a_step_failed(data, tmp_path):
    with pytest.raises(UserError, match="NoNet"):
        wsss.run_project(data, str(tmp_path / "project"), backbone="NoNet", backbone_weights="none")
