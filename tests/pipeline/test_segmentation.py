"""A segmentation network in place of CAMs: masks of new images without tags, and of tagged ones."""

import json

import numpy as np
import pytest

from tests.pseudo_label_cases import label, write_segmentation_run
from wsss.common import io
from wsss.data.images import decode_mask
from wsss.evaluate import main as evaluate
from wsss.inference.cam_scores import merge_scales, normalize_probabilities, round_scores
from wsss.inference.loading import load_predictor
from wsss.ops.pamr import refine_masks
from wsss.pipeline.output import decode_scores
from wsss.predict import main as predict

EVERY_CLASS = ("--label_threshold", "0")


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    return str(write_segmentation_run(tmp_path_factory.mktemp("deeplab"), data))


@pytest.fixture(scope="module")
def labels(tmp_path_factory, run):
    """Labels of the collection, without its tags."""
    output = tmp_path_factory.mktemp("output") / "labels"
    assert label(output, run, *EVERY_CLASS) == 0
    return output


def mask_of(output, record):
    return decode_mask(io.read_bytes(output / "masks" / f"{record.image_id}.png"))


def scores_of(output, record):
    return decode_scores(io.read_bytes(output / "scores" / f"{record.image_id}.npz"))


def probabilities_of(run, record, scales=(0.5, 1.0)):
    """Mean of the probabilities over scales and mirrors, by the predictor itself."""
    predictor = load_predictor(f"{run}/model.keras", scales=scales, cam="probabilities")
    (prediction,) = predictor.predict([record.image])
    size = record.image.shape[:2]
    return normalize_probabilities(merge_scales(prediction.cams, prediction.scaled_sizes, size))


def test_masks_are_the_most_probable_classes(labels, run, records):
    for record in records[:4]:
        expected = round_scores(probabilities_of(run, record)).argmax(axis=0)
        np.testing.assert_array_equal(mask_of(labels, record), expected)


def test_scores_are_the_probabilities_of_the_classes(labels, run, records):
    scores, class_ids = scores_of(labels, records[0])
    assert class_ids.tolist() == [0, 1, 2]
    np.testing.assert_allclose(scores, probabilities_of(run, records[0])[1:], atol=1e-3)


def test_with_tags_absent_classes_take_no_part(run, records, tmp_path):
    assert label(tmp_path / "labels", run, "--image_labels", "truth") == 0
    for record in records:
        assert set(np.unique(mask_of(tmp_path / "labels", record))) <= {0, *(c + 1 for c in record.labels)}
    two_classes = next(record for record in records if len(record.labels) == 2)
    rows = [0, *(c + 1 for c in two_classes.labels)]
    allowed = normalize_probabilities(probabilities_of(run, two_classes)[rows])
    expected = np.array(rows)[round_scores(allowed).argmax(axis=0)]
    np.testing.assert_array_equal(mask_of(tmp_path / "labels", two_classes), expected)


def test_summary_and_metrics_say_what_they_are_of(labels):
    summary = json.loads((labels / "summary.json").read_text())
    assert summary["background_threshold"] is None
    assert summary["options"]["image_labels"] == "predicted"
    metrics = json.loads((labels / "metrics.json").read_text())
    assert metrics["of"] == "masks of the class probabilities"
    assert (labels / "report.html").exists()


def test_evaluation_gives_the_same_mean_iou(labels, data, tmp_path):
    assert evaluate(["--predictions", str(labels), "--truth", data, "--output", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["miou"]
    assert found == pytest.approx(json.loads((labels / "metrics.json").read_text())["miou"])


def test_new_images_need_no_tags_and_no_threshold(run, records, tmp_path, capsys):
    io.write_bytes(tmp_path / "photos" / "new.png", records[1].image_bytes)
    folders = ["--images", str(tmp_path / "photos"), "--output", str(tmp_path / "masks")]
    assert predict(["--model", run, *folders, *EVERY_CLASS, "--scales", "1"]) == 0
    mask = decode_mask(io.read_bytes(tmp_path / "masks" / "masks" / "new.png"))
    expected = round_scores(probabilities_of(run, records[1], scales=(1.0,))).argmax(axis=0)
    np.testing.assert_array_equal(mask, expected)
    assert "Background threshold" not in capsys.readouterr().out


@pytest.mark.parametrize("refine", ["pamr", "crf", "pamr,crf"])
def test_probabilities_are_refined(refine, labels, run, records, tmp_path):
    output = tmp_path / "labels"
    assert label(output, run, *EVERY_CLASS, "--refine", refine) == 0
    assert any((mask_of(output, record) != mask_of(labels, record)).any() for record in records)
    if refine == "pamr":  # the background is averaged with the classes
        image = records[0].image[None].astype(np.float32) / 255
        maps = np.moveaxis(round_scores(probabilities_of(run, records[0])), 0, -1)[None]
        expected = np.asarray(refine_masks(image, maps, iterations=10))[0]
        clear = np.diff(np.sort(expected, axis=-1)[..., -2:])[..., 0] > 1e-4
        np.testing.assert_array_equal(mask_of(output, records[0])[clear], expected.argmax(axis=-1)[clear])
        assert scores_of(output, records[0])[0].tobytes() == scores_of(labels, records[0])[0].tobytes()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--background_threshold", "0.3"], "--background_threshold"),
        (["--background_threshold", "auto"], "--background_threshold"),
        (["--background_alpha", "4"], "--background_alpha"),
        (["--write", "irn_labels"], "--write irn_labels"),
        (["--refine", "walk", "--affinity_model", "runs/affinity"], "--refine walk"),
    ],
)
def test_what_is_for_cams_is_refused_in_one_line(flags, named, run, tmp_path, capsys):
    assert label(tmp_path / "labels", run, *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"`{named}` is for class activation maps" in line


def test_a_lone_model_file_is_recognized_by_its_map(run, data, tmp_path, capsys):
    path = tmp_path / "lone.keras"
    io.copy(f"{run}/model.keras", path)
    flags = ["--data", data, "--split", "train"]
    assert label(tmp_path / "labels", str(path), *flags) == 2
    assert "Pass `--cam probabilities`" in capsys.readouterr().err
    assert label(tmp_path / "labels", str(path), *flags, "--cam", "probabilities") == 0
