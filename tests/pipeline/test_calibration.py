"""The background threshold of the labeled training images is found again for new images."""

import json
import shutil

import pytest

from tests.gcs_emulator import emulated_bucket
from tests.pseudo_label_cases import label, tree
from wsss import predict_masks
from wsss.common import io
from wsss.common.errors import UserError
from wsss.pipeline.job.calibration import Calibration, calibrated_threshold, keep_calibration
from wsss.pipeline.trained_run import open_trained_run
from wsss.predict import main as predict

FOUND = Calibration("", "refined_cam", 0.3125, "shards", "train")


@pytest.fixture
def marked(run, tmp_path):
    """A copy of the run that is marked as one of `wsss.train`."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    io.write_json(
        str(folder / "wsss_output.json"), {"kind": "run", "version": "0.1.0", "owned": ["model.keras"]}
    )
    return folder


@pytest.fixture
def on_photos(records, tmp_path):
    """Predicts the masks of one photograph by a run; gives the exit code."""
    io.write_bytes(str(tmp_path / "photos" / "new.png"), records[1].image_bytes)
    flags = ["--images", str(tmp_path / "photos"), "--scales", "1", "--label_threshold", "0.4"]
    return lambda run, output, *more: predict(
        [*flags, "--model", str(run), "--output", str(tmp_path / output), *more]
    )


def keep(folder, calibration=FOUND):
    """Keeps a calibration of the run's own model; gives what is announced."""
    run, lines = open_trained_run(str(folder)), []
    keep_calibration(run, Calibration(run.model_hash, *list(vars(calibration).values())[1:]), lines.append)
    return lines


def used(folder):
    return json.loads((folder / "summary.json").read_text())["background_threshold"]


def test_new_images_get_the_threshold_of_the_training_images(marked, on_photos, tmp_path, capsys):
    assert label(tmp_path / "labels", str(marked), "--background_threshold", "auto") == 0
    assert "kept for new images" in capsys.readouterr().out
    assert on_photos(marked, "masks") == 0
    chosen = json.loads((tmp_path / "labels" / "threshold.json").read_text())["threshold"]
    assert used(tmp_path / "masks") == chosen != 0.2
    line = f"Background threshold: {chosen:.2f}, calibrated on "
    assert [text for text in capsys.readouterr().out.splitlines() if text.startswith(line)]
    before = tree(marked)
    assert label(tmp_path / "labels", str(marked), "--background_threshold", "auto") == 0
    assert "kept for new images" not in capsys.readouterr().out
    assert tree(marked) == before


def test_given_backgrounds_win_over_the_calibrated_one(marked, on_photos, tmp_path, capsys):
    keep(marked)
    assert on_photos(marked, "given", "--background_threshold", "0.5") == 0
    assert used(tmp_path / "given") == 0.5
    assert on_photos(marked, "alpha", "--background_alpha", "4") == 0
    assert used(tmp_path / "alpha") is None
    assert "calibrated" not in capsys.readouterr().out


def test_the_function_and_the_program_take_the_same_threshold(marked, on_photos, tmp_path):
    keep(marked)
    assert on_photos(marked, "program") == 0
    photos, options = str(tmp_path / "photos"), {"scales": (1.0,), "label_threshold": 0.4}
    result = predict_masks(str(marked), photos, str(tmp_path / "function"), **options)
    assert result.background_threshold == 0.3125 == used(tmp_path / "program")
    assert tree(tmp_path / "program") == tree(tmp_path / "function")


def test_labels_of_other_images_do_not_calibrate(marked, records, tmp_path):
    io.write_bytes(str(tmp_path / "photos" / "new.png"), records[1].image_bytes)
    flags = ("--background_threshold", "auto", "--image_labels", "predicted", "--label_threshold", "0.4")
    assert label(tmp_path / "labels", str(marked), "--data", str(tmp_path / "photos"), *flags) == 0
    assert not (marked / "calibration.json").exists()


def test_a_constant_is_taken_for_another_model_or_map(marked):
    keep(marked)
    assert calibrated_threshold(open_trained_run(str(marked)), "refined_cam")[0] == 0.3125
    threshold, line, _ = calibrated_threshold(open_trained_run(str(marked)), "cam")
    assert (threshold, "`refined_cam`, not of `cam`" in line) == (0.2, True)
    (marked / "model.keras").write_bytes(b"trained further")
    threshold, line, _ = calibrated_threshold(open_trained_run(str(marked)), "refined_cam")
    assert (threshold, "of another model" in line) == (0.2, True)


def test_without_a_calibration_the_remedy_is_named(run, on_photos, tmp_path, capsys):
    assert on_photos(run, "masks") == 0
    assert used(tmp_path / "masks") == 0.2
    assert "--background_threshold auto` on the training images calibrates it" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["mine", '{"threshold": 0.3}', '{"threshold": 7}', "[]"])
def test_a_foreign_file_is_kept_and_named(marked, content):
    (marked / "calibration.json").write_text(content)
    (line,) = keep(marked)
    assert line.startswith("The background threshold was not kept")
    assert "calibration.json" in line
    assert (marked / "calibration.json").read_text() == content
    with pytest.raises(UserError, match=r"calibration\.json"):
        calibrated_threshold(open_trained_run(str(marked)), "refined_cam")


def test_a_run_in_a_bucket_keeps_its_calibration_too(marked, monkeypatch):
    with emulated_bucket(monkeypatch) as bucket:
        for name in ("model.keras", "config.json", "wsss_output.json"):
            io.copy(str(marked / name), f"{bucket}/run/{name}")
        assert keep(f"{bucket}/run") == [
            f"Background threshold kept for new images in {bucket}/run/calibration.json."
        ]
        assert keep(f"{bucket}/run") == []
        assert calibrated_threshold(open_trained_run(f"{bucket}/run"), "refined_cam")[0] == 0.3125


def test_a_folder_that_is_no_run_is_left_as_it_is(run):
    before = tree(run)
    assert keep(run) == []
    assert tree(run) == before


def test_a_run_that_cannot_be_written_costs_the_calibration_only(marked, monkeypatch):
    def refuse(path, value):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(io, "write_json", refuse)
    (line,) = keep(marked)
    assert "cannot be written" in line
