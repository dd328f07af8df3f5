"""The choice of a refinement: its rule by hand, its measures, and what the program makes of it."""

import json

import numpy as np
import pytest

from tests.pseudo_label_cases import label, tree
from wsss.common.errors import UserError
from wsss.pipeline.options import LabelOptions
from wsss.pipeline.stages.refine import ScoredImage, Unrefined
from wsss.pipeline.stages.refinement_choice import (
    RefinementChoice,
    RefinementEvidence,
    choose_refinement,
    explained_variance,
    measure_refinement,
)

NONE = RefinementEvidence(64, 0, 0, image_fit=0.1, cam_fit=0.4)
GENTLE = RefinementEvidence(64, 0, 0, image_fit=0.15, cam_fit=0.36)
STRONG = RefinementEvidence(64, 0.05, 0.2, image_fit=0.2, cam_fit=0.39)


def test_of_refinements_that_follow_the_image_that_nearest_to_the_cams_is_taken():
    chosen, reason = choose_refinement({"none": NONE, "pamr": GENTLE, "crf": STRONG})
    assert chosen == "crf"
    assert "20.0 %" in reason
    assert "98 % of the CAMs' contrast" in reason


def test_few_images_get_the_first_refinement_that_does_no_harm():
    few = {
        name: RefinementEvidence(12, each.collapsed, each.class_lost, each.image_fit, each.cam_fit)
        for name, each in {"none": NONE, "pamr": GENTLE, "crf": STRONG}.items()
    }
    chosen, reason = choose_refinement(few)
    assert chosen == "pamr"
    assert "12 images are too few" in reason


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        ({"collapsed": 0.33}, "leaves 33 % of the masks with one single value"),
        ({"class_lost": 0.25}, "takes a class from 25 % of the masks"),
        ({"image_fit": 0.1}, "does not make the masks follow the images"),
        ({"cam_fit": 0.2}, "keeps only 50 % of the CAMs' contrast"),
        ({"images": 0}, "was not measured"),
    ],
)
def test_a_refinement_that_does_harm_is_not_taken(harm, why):
    values = {"images": 64, "collapsed": 0, "class_lost": 0, "image_fit": 0.3, "cam_fit": 0.4, **harm}
    chosen, reason = choose_refinement({"none": NONE, "walk": RefinementEvidence(**values)})
    assert chosen == "none"
    assert f"walk {why}" in reason
    chosen, reason = choose_refinement({"none": NONE, "pamr": GENTLE, "walk": RefinementEvidence(**values)})
    assert chosen == "pamr"
    assert f"walk {why}" in reason


def test_the_variance_that_labels_explain_is_that_between_them():
    image = np.zeros((2, 2, 3), np.uint8)
    image[:, 1] = 10
    assert explained_variance(image, np.array([[0, 1], [0, 1]], np.uint8)) == pytest.approx(1)
    assert explained_variance(image, np.array([[0, 0], [1, 1]], np.uint8)) == 0
    assert explained_variance(image, np.array([[0, 0], [0, 1]], np.uint8)) == pytest.approx(1 / 3)
    assert explained_variance(image, np.full((2, 2), 255, np.uint8)) == 0


def test_a_measure_holds_harm_and_the_fit_to_image_and_cams():
    image = np.zeros((2, 2, 3), np.uint8)
    image[:, 1] = 10
    scores = np.array([[[0.1, 0.9], [0.3, 0.7]]], np.float32)
    before = Unrefined(np.array([[0, 1], [0, 1]], np.uint8), scores[0])
    scored = ScoredImage(None, (0,), np.zeros_like(scores), np.zeros(1), mask=before.mask, unrefined=before)
    assert measure_refinement(scored, image).tolist() == [1, 0, 0, 1_000_000, 600_000]
    flat = scored._replace(mask=np.zeros((2, 2), np.uint8))
    assert measure_refinement(flat, image).tolist() == [1, 1_000_000, 1_000_000, 0, 0]
    assert not measure_refinement(scored._replace(class_ids=()), image).any()


@pytest.mark.slow
def test_the_program_chooses_records_why_and_resumes_with_the_same(run, tmp_path, capsys):
    output = tmp_path / "labels"
    assert label(output, run, "--refine", "auto") == 0
    choice = json.loads((output / "refinement.json").read_text())
    assert set(choice["evidence"]) == {"none", "pamr", "crf"}
    assert choice["evidence"]["none"]["images"] == 8  # of twelve, four have no class
    assert f"Refinement chosen from the images: {choice['chosen']}" in capsys.readouterr().out
    summary = json.loads((output / "summary.json").read_text())
    assert summary["refinement_choice"] == choice
    assert summary["options"]["refine"] == ["auto"]
    assert label(tmp_path / "given", run, "--refine", choice["chosen"]) == 0
    assert tree(output / "masks") == tree(tmp_path / "given" / "masks")
    before = tree(output)
    min((output / "manifests").iterdir()).unlink()
    assert label(output, run, "--refine", "auto") == 0
    assert tree(output) == before


def test_auto_is_written_alike_in_python_and_is_for_masks_alone():
    assert LabelOptions(refine="auto").refine == ("auto",)
    assert LabelOptions(refine="pamr,crf").refine == ("pamr", "crf")
    with pytest.raises(UserError, match="must be none, auto, or some of"):
        LabelOptions(refine="magic")
    with pytest.raises(UserError, match="leave it out of `--write affinity_labels`"):
        LabelOptions(refine=("auto",), write="affinity_labels")


def test_a_damaged_choice_is_named_in_one_line():
    with pytest.raises(UserError, match=r"refinement\.json is damaged: `chosen` must be one of none, pamr"):
        RefinementChoice.from_json({"chosen": "magic"}, "refinement.json")
