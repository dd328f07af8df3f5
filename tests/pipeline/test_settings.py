"""The settings of each step of a job, from the flags and the trained run."""

import ast
from pathlib import Path

import pytest

from wsss.common.errors import UserError
from wsss.pipeline.job.settings import resolve
from wsss.pipeline.options import ADAPTATION, LabelOptions
from wsss.pipeline.trained_run import TrainedRun

PACKAGE = Path(__file__).resolve().parents[2] / "wsss" / "pipeline"


def settings_of(kind="seam", **options):
    run = TrainedRun("run", "run/model.keras", "hash", ("cat", "cow"), split="training", kind=kind)
    return resolve(LabelOptions(model="run", data="shards", **options), run)


def test_the_run_decides_what_is_labeled_and_where():
    settings = settings_of()
    assert (settings.images.split, settings.output.path) == ("training", "run/pseudo_labels/training")
    assert settings.model.model_path == settings.output.recorded["model"] == "run/model.keras"


@pytest.mark.parametrize(
    ("kind", "cam", "image_labels", "scales", "preset", "unary", "threshold"),
    [
        ("seam", "refined_cam", "truth", (1.5,), "ppc", "labels", 0.2),
        ("classifier", "cam", "truth", (1.5,), "ppc", "labels", 0.2),
        (
            "deeplab",
            "probabilities",
            "predicted",
            (0.75, 1.0, 1.25),
            "ppc_segmentation",
            "probabilities",
            None,
        ),
    ],
)
def test_the_kind_of_model_decides_the_defaults(kind, cam, image_labels, scales, preset, unary, threshold):
    settings = settings_of(kind)
    recorded = settings.output.recorded
    assert (settings.threshold.cam, settings.cams.image_labels) == (cam, image_labels)
    assert recorded["scales"] == list(scales)
    assert (settings.refinement.crf_preset, settings.refinement.crf_unary) == (preset, unary)
    assert settings.refinement.background.threshold == recorded["background_threshold"] == threshold


@pytest.mark.parametrize(("rule", "adaptation"), [("auto", ADAPTATION), (0.3, 0.0), ("calibrated", 0.0)])
def test_each_rule_of_the_threshold_has_its_weight_of_an_image(rule, adaptation):
    settings = settings_of(background_threshold=rule)
    assert settings.threshold.rule == rule
    assert settings.refinement.background.adaptation == adaptation
    assert (
        settings_of(background_threshold=rule, threshold_adaptation=0.5).refinement.background.adaptation
        == 0.5
    )


def test_a_threshold_to_be_chosen_is_not_known_yet():
    settings = settings_of(background_threshold="auto")
    assert settings.refinement.background.threshold is None
    assert settings.output.recorded["background_threshold"] == "auto"


def test_only_what_was_chosen_from_the_training_images_is_kept_for_the_model():
    assert settings_of(background_threshold="auto").threshold.is_kept
    assert not settings_of(background_threshold="auto", split="other").threshold.is_kept
    assert not settings_of(background_threshold="auto", image_labels="predicted").threshold.is_kept
    assert not settings_of().threshold.is_kept


def test_a_segmentation_network_has_no_use_for_a_threshold():
    with pytest.raises(UserError, match=r"--background_threshold.*Leave it out"):
        settings_of("deeplab", background_threshold=0.3)


def takes_all_options(path):
    """Names of the functions in a module with a parameter `options`."""
    functions = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
    return {
        function.name
        for function in functions
        if any(each.arg == "options" for each in (*function.args.args, *function.args.kwonlyargs))
    }


def test_no_step_after_the_settings_sees_all_options():
    steps = [
        *PACKAGE.glob("job/*.py"),
        *PACKAGE.glob("stages/*.py"),
        PACKAGE / "graph.py",
        PACKAGE / "plan.py",
    ]
    found = {f"{path.stem}.{name}" for path in steps for name in takes_all_options(path)}
    jobs = {"labeling.make_pseudo_labels", "relabeling.make_masks_anew"}
    assert {name for name in found if not name.startswith("settings.")} == jobs
