"""The evaluation program: metrics by hand, on every kind of input."""

import dataclasses
import json

import numpy as np
import pytest

from tests.pseudo_label_cases import CLASS_NAMES, make_records, write_collection
from wsss.common import io
from wsss.common.file_names import file_name, image_id_of
from wsss.data.images import encode_mask, voc_palette
from wsss.data.synthetic import write_synthetic_collection
from wsss.evaluate import main
from wsss.pipeline.output import encode_scores

TRUTH = {"a": [[0, 0, 1, 1]], "b": [[2, 2, 255, 0]], "sub/c": [[1, 1, 1, 1]]}
PREDICTED = {"a": [[0, 1, 1, 1]], "b": [[2, 255, 2, 0]], "sub/c": [[1, 1, 1, 0]]}


def write_masks(folder, masks):
    for image_id, mask in masks.items():
        path = io.join(str(folder), f"{file_name(image_id)}.png")
        io.write_bytes(path, encode_mask(np.array(mask, np.uint8), voc_palette()))
    return str(folder)


@pytest.fixture
def truth(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return write_masks(tmp_path / "truth", TRUTH)


def evaluate(tmp_path, predictions, truth, *flags, overwrite=True):
    output = tmp_path / "evaluation"
    arguments = ["--predictions", str(predictions), "--truth", str(truth), "--output", str(output), *flags]
    arguments += ["--overwrite"] if overwrite else []
    code = main([*arguments, "--classes", str(tmp_path / "classes.txt")])
    return code, json.loads((output / "metrics.json").read_text()) if code == 0 else None


def test_masks_are_counted_as_by_hand(tmp_path, truth, capsys):
    code, metrics = evaluate(tmp_path, write_masks(tmp_path / "predicted", PREDICTED), truth)
    assert code == 0
    classes = metrics["classes"]
    assert classes["background"] == {"iou": 0.5, "true_positives": 2, "predicted": 3, "truth": 3}
    assert classes["cat"] == {"iou": 5 / 7, "true_positives": 5, "predicted": 6, "truth": 6}
    assert classes["dog"] == {"iou": 0.5, "true_positives": 1, "predicted": 1, "truth": 2}
    assert metrics["miou"] == pytest.approx((0.5 + 5 / 7 + 0.5) / 3)
    assert metrics["predicted_fraction_of_pixels"] == pytest.approx(10 / 11)
    printed = capsys.readouterr().out
    assert "57.1" in printed
    assert "90.91 % of the pixels predicted" in printed
    assert "cat,0.7142857142857143,5,6,6" in (tmp_path / "evaluation" / "classes.csv").read_text()


@pytest.mark.parametrize(("ignored", "dog", "background"), [("skip", 1.0, 0.5), ("background", 0.5, 0.4)])
def test_ignored_predictions_count_as_the_option_says(tmp_path, truth, ignored, dog, background):
    predicted = write_masks(tmp_path / "predicted", PREDICTED)
    _, metrics = evaluate(tmp_path, predicted, truth, "--ignored_prediction", ignored)
    assert metrics["classes"]["dog"]["iou"] == pytest.approx(dog)
    assert metrics["classes"]["background"]["iou"] == pytest.approx(background)


def test_a_missing_prediction_counts_unless_it_is_left_out(tmp_path, truth):
    predicted = write_masks(tmp_path / "predicted", {key: PREDICTED[key] for key in ("a", "b")})
    _, metrics = evaluate(tmp_path, predicted, truth)
    assert metrics["images"] == {"compared": 2, "missing": 1}
    assert metrics["missing"] == ["sub/c"]
    assert metrics["classes"]["cat"]["truth"] == 6
    _, metrics = evaluate(tmp_path, predicted, truth, "--skip_missing")
    assert metrics["classes"]["cat"]["truth"] == 2


def test_scores_give_the_whole_curve(tmp_path, truth):
    folder = tmp_path / "scores"
    for image_id, mask in TRUTH.items():
        scores = np.where(np.array([mask]) == 1, 0.5, 0.25).astype(np.float32)
        io.write_bytes(str(folder / f"{image_id}.npz"), encode_scores(scores, [0]))
    code, metrics = evaluate(tmp_path, folder, truth)
    assert code == 0
    assert metrics["background_threshold"]["tuned_on_these_images"] is True
    assert metrics["background_threshold"]["best"] == 0.25
    assert metrics["classes"]["cat"]["iou"] == 1.0
    assert metrics["classes"]["dog"]["iou"] == 0.0
    assert len((tmp_path / "evaluation" / "threshold_curve.csv").read_text().splitlines()) == 61
    assert (tmp_path / "evaluation" / "threshold_curve.png").read_bytes().startswith(b"\x89PNG")
    _, metrics = evaluate(tmp_path, folder, truth, "--background_threshold", "0.005")
    assert metrics["background_threshold"]["used"] == 0.005
    assert metrics["classes"]["cat"]["predicted"] == 11


def test_collections_are_read_on_both_sides(tmp_path, capsys):
    write_collection(str(tmp_path / "data"), make_records(4))
    data = str(tmp_path / "data")
    assert main(["--predictions", data, "--truth", data]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in CLASS_NAMES)
    assert "100.00 % of the pixels predicted" in printed


def test_all_splits_of_a_collection_are_compared_at_once(tmp_path, capsys):
    data = str(tmp_path / "data")
    write_synthetic_collection(data, images=5, size=32)
    assert main(["--predictions", data, "--truth", data, "--split", "all"]) == 0
    assert "5 images, 0 without prediction" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--truth", "empty"], "holds no masks"),
        (["--truth", "nowhere"], "nowhere does not exist"),
        (["--predictions", "classes.txt"], "classes.txt is a file"),
        (["--truth", "tagged"], "Prepare it with true masks (`wsss prepare --masks DIR`)"),
        (["--predictions", "empty"], "holds no predictions"),
        (["--predictions", "other"], "No image has both"),
        (["--predictions", "large"], "differ in shape"),
        (["--predictions", "label"], "Label 9 in the prediction"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, truth, capsys, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    write_masks(tmp_path / "other", {"z": [[0]]})
    write_masks(tmp_path / "large", {"a": [[0] * 9]})
    write_masks(tmp_path / "label", {"a": [[9] * 4]})
    write_collection("tagged", [dataclasses.replace(each, mask_bytes=None) for each in make_records(2)])
    (tmp_path / "empty").mkdir()
    arguments = ["--predictions", truth, "--truth", truth, "--classes", "classes.txt", *flags]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_evaluation_goes_into_a_folder_of_its_own(tmp_path, truth, capsys):
    other = write_masks(tmp_path / "predicted", PREDICTED)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text("of somebody else")
    assert evaluate(tmp_path, other, truth) == (2, None)
    assert "which wsss did not write" in capsys.readouterr().err
    assert (tmp_path / "evaluation" / "metrics.json").read_text() == "of somebody else"
    (tmp_path / "evaluation" / "metrics.json").unlink()
    for _ in range(2):
        assert evaluate(tmp_path, other, truth)[0] == 0


def test_without_names_of_the_classes_they_are_asked_for(tmp_path, truth, capsys):
    assert main(["--predictions", truth, "--truth", truth]) == 2
    assert "--classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "image_id", ["plain", "a/b", "../up", "/root", "50%", "%2F", 'x:*?"<>|', "a//b", ".hidden", "käse"]
)
def test_every_image_id_has_a_harmless_name_that_leads_back(image_id):
    name = file_name(image_id)
    assert image_id_of(name) == image_id
    assert not name.startswith(("/", "."))
    assert "/." not in name
    assert not set(name) & set('\\:*?"<>|')


@pytest.mark.parametrize("taken", ["predictions", "truth", "foreign"])
def test_figures_never_replace_files_of_others(tmp_path, capsys, taken):
    for name in ("predictions", "truth"):
        write_masks(tmp_path / name, {"a": np.zeros((2, 2), np.uint8)})
    (tmp_path / "classes.txt").write_text("object\n")
    io.write_text(tmp_path / "foreign" / "metrics.json", "mine")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*.*"))}
    sources = ["--predictions", str(tmp_path / "predictions"), "--truth", str(tmp_path / "truth")]
    sources += ["--classes", str(tmp_path / "classes.txt")]
    assert main([*sources, "--output", str(tmp_path / taken)]) == 2
    assert "Name a" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in sorted(tmp_path.rglob("*.*"))}


def test_a_finished_evaluation_is_replaced_with_overwrite_only(tmp_path, truth, capsys):
    scores = encode_scores(np.ones((1, 1, 4), np.float16), [0])
    io.write_bytes(tmp_path / "scores" / "a.npz", scores)
    assert evaluate(tmp_path, tmp_path / "scores", truth)[0] == 0
    output = tmp_path / "evaluation"
    (output / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert "threshold_curve.csv" in before
    masks = write_masks(tmp_path / "predicted", PREDICTED)
    assert evaluate(tmp_path, masks, truth, overwrite=False)[0] == 2
    assert "pass `--overwrite` to replace it" in capsys.readouterr().err
    assert evaluate(tmp_path, tmp_path / "nowhere", truth)[0] == 2
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    code, metrics = evaluate(tmp_path, masks, truth)
    assert code == 0
    assert "predicted_fraction_of_pixels" in metrics
    left = {path.name for path in output.iterdir() if not path.name.startswith(".")}
    assert left == {"wsss_output.json", "metrics.json", "classes.csv", "notes.txt"}
