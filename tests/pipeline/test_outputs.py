"""What lies on disk after the pipeline has run, through its program."""

import json
import os
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from tests.gcs_emulator import emulated_bucket
from tests.inference.test_predictor import straightforward_sum
from tests.pseudo_label_cases import (
    CLASS_NAMES,
    label,
    tree,
    write_affinity_run,
    write_collection,
    write_edge_run,
)
from wsss.common import io
from wsss.data.dataset import open_collection
from wsss.data.images import decode_image, decode_mask
from wsss.evaluate import main as evaluate
from wsss.inference.cam_scores import background_scores, mask_from_scores, normalize_scores
from wsss.metrics import ThresholdSweep, confusion_matrix, counts_of, mean_iou
from wsss.pipeline.output import decode_scores
from wsss.pipeline.summary import describe_scores
from wsss.predict import main as predict
from wsss.relabel import main as relabel
from wsss.report import main as report

SCALES = (0.5, 1.0)  # those of `tests.pseudo_label_cases.FLAGS`


def expected_scores(model, record):
    summed = straightforward_sum(model, decode_image(record.image_bytes), SCALES)
    return normalize_scores(summed[list(record.labels)].astype(np.float32))


def test_masks_and_scores_equal_the_straightforward_loop(labels, run, records):
    model = keras.models.load_model(os.path.join(run, "model.keras"))
    for record in records[:4]:
        scores = expected_scores(model, record)
        ours, class_ids = decode_scores((labels / "scores" / f"{record.image_id}.npz").read_bytes())
        assert tuple(class_ids) == record.labels
        np.testing.assert_allclose(ours, scores, atol=1e-3)  # float16 on disk
        mask = decode_mask((labels / "masks" / f"{record.image_id}.png").read_bytes())
        expected = mask_from_scores(scores, record.labels, background_scores(scores, threshold=0.2))
        assert np.mean(mask == expected) > 0.99


def test_every_image_has_a_palette_mask_of_its_own_size(labels, records):
    assert sorted(path.stem for path in (labels / "masks").iterdir()) == [r.image_id for r in records]
    for record in records:
        with Image.open(labels / "masks" / f"{record.image_id}.png") as image:
            assert image.mode == "P"
            assert image.size == (record.width, record.height)
            assert image.getpalette()[3:6] == [128, 0, 0]
            assert set(np.unique(np.asarray(image))) <= {0, *(label + 1 for label in record.labels)}


def test_metrics_equal_a_count_of_the_files(labels, records):
    metrics = json.loads((labels / "metrics.json").read_text())
    confusion, sweep = 0, ThresholdSweep(4)
    for record in records:
        mask = decode_mask((labels / "masks" / f"{record.image_id}.png").read_bytes())
        confusion = confusion + confusion_matrix(record.mask, mask, 4)
        scores, class_ids = decode_scores((labels / "scores" / f"{record.image_id}.npz").read_bytes())
        sweep.update(scores, class_ids, record.mask)
    assert metrics["miou"] == pytest.approx(mean_iou(counts_of(confusion)), abs=1e-12)
    assert set(metrics["iou"]) == {"background", *CLASS_NAMES}
    np.testing.assert_allclose(metrics["sweep"]["miou"], mean_iou(sweep.counts()), atol=2e-3)
    assert metrics["sweep"]["miou"][20] == pytest.approx(metrics["miou"], abs=1e-12)
    assert metrics["background_threshold"]["best_was_tuned_on"] == metrics["split"] == "train"
    assert metrics["image_labels"] == "truth"


def test_the_summary_says_what_was_made_with_what(labels, records, run):
    summary = json.loads((labels / "summary.json").read_text())
    assert summary["images"] == {
        "read": 12,
        "labelled": 12,
        "failed": 0,
        "empty": 0,
        "failed_by_stage": {},
        "failed_by_reason": {},
        "bytes": sum(len(record.image_bytes) for record in records),
    }
    assert sum(summary["class_pixels"].values()) == sum(r.height * r.width for r in records)
    assert summary["options"]["image_labels"] == "truth"
    assert summary["options"]["scales"] == [0.5, 1.0]
    assert len(summary["model_hash"]) == 16
    assert any("hardly learned" in warning for warning in summary["warnings"])
    assert (labels / "errors.jsonl").read_text() == ""
    assert len(list((labels / "previews").iterdir())) == 2
    page = (labels / "report.html").read_text()
    shown = summary["pictures"]
    assert page.count("data:image/jpeg;base64,") == len(shown) >= 2
    assert page.count("data:image/png;base64,") == 2 * len(shown)  # mask and truth of each
    assert "Mean IoU over the background threshold, of CAM scores: best" in page  # in words, of the SVG
    assert '<meta name="viewport" content="width=device-width' in page
    for color in ("000000", "800000", "008000"):  # of the masks: background and the first two classes
        assert f'style="background:#{color}"' in page
    assert not re.search("https?:", page)


def test_the_report_can_be_written_anew_from_the_files(labels, tmp_path, capsys):
    shutil.copytree(labels, tmp_path / "labels")
    (tmp_path / "labels" / "report.html").unlink()
    assert report([str(tmp_path / "labels")]) == 0
    assert tree(tmp_path / "labels") == tree(labels)
    (tmp_path / "labels" / "summary.json").unlink()
    assert report([str(tmp_path / "labels")]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_a_report_is_written_only_into_a_folder_of_pseudo_labels(labels, tmp_path, capsys):
    shutil.copy(labels / "summary.json", tmp_path)
    (tmp_path / "report.html").write_text("mine")
    assert report([str(tmp_path)]) == 2
    assert "holds no pseudo labels that wsss wrote" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "mine"


def test_records_are_a_collection_with_the_pseudo_labels_for_masks(labels, run, records, tmp_path):
    assert label(tmp_path, run, "--output_format", "tfrecord") == 0
    collection = open_collection(str(tmp_path))
    assert collection.class_names == CLASS_NAMES
    assert collection.split_sizes == {"train": 12}
    originals = {record.image_id: record for record in records}
    for record in collection.read("train"):
        expected = decode_mask((labels / "masks" / f"{record.image_id}.png").read_bytes())
        np.testing.assert_array_equal(record.mask, expected)
        original = originals[record.image_id]
        assert (record.image_bytes, record.labels) == (original.image_bytes, original.labels)
    assert not (tmp_path / "masks").exists()


def test_a_plain_folder_of_images_gets_predicted_labels(run, records, tmp_path):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for record in records[:5]:
        (tmp_path / "images" / "sub" / f"{record.image_id}.png").write_bytes(record.image_bytes)
    (tmp_path / "images" / "broken.jpg").write_bytes(b"not a photograph")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    flags = ("--data", str(tmp_path / "images"), "--image_labels", "predicted", "--label_threshold", "0.4")
    assert label(tmp_path / "labels", run, *flags, "--images_per_shard", "2") == 0
    assert len(list((tmp_path / "labels" / "masks" / "sub").iterdir())) == 5
    error = json.loads((tmp_path / "labels" / "errors.jsonl").read_text())
    assert (error["id"], error["stage"]) == ("broken", "decode")
    summary = json.loads((tmp_path / "labels" / "summary.json").read_text())
    assert summary["options"]["image_labels"] == "predicted"
    assert summary["shards"] == 3
    assert not (tmp_path / "labels" / "metrics.json").exists()


def test_new_images_get_masks_by_a_program_of_their_own(run, records, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "new.png").write_bytes(records[0].image_bytes)
    output = tmp_path / "photos" / "labels"  # within the folder of the images: a second run must not read it
    arguments = ["--model", run, "--images", str(tmp_path / "photos"), "--output", str(output)]
    for _ in range(2):
        assert predict([*arguments, "--scales", "1", "--label_threshold", "0.4"]) == 0
        assert [path.name for path in (output / "masks").iterdir()] == ["new.png"]
    assert decode_mask((output / "masks" / "new.png").read_bytes()).shape == (24, 32)
    assert "1 of 1 shards are done already" in capsys.readouterr().out
    assert predict([*arguments, "--scale", "1"]) == 2
    assert "Did you mean `--scales`?" in capsys.readouterr().err


def test_the_background_threshold_may_be_left_to_the_images(run, tmp_path, capsys):
    assert label(tmp_path / "auto", run, "--background_threshold", "auto") == 0
    chosen = json.loads((tmp_path / "auto" / "threshold.json").read_text())
    scored = [
        decode_scores(path.read_bytes())[0] for path in sorted((tmp_path / "auto" / "scores").iterdir())
    ]
    strongest = np.concatenate([scores.max(axis=0).ravel() for scores in scored if len(scores)])
    assert chosen["threshold"] == pytest.approx(strongest.mean(dtype=np.float64), abs=1e-3)
    assert chosen["pixels"] == strongest.size
    assert f"{chosen['threshold']:.2f}" in capsys.readouterr().out
    given = str(chosen["threshold"])
    flags = ("--background_threshold", given, "--threshold_adaptation", "0.75")
    assert label(tmp_path / "given", run, *flags) == 0
    assert tree(tmp_path / "auto" / "masks") == tree(tmp_path / "given" / "masks")
    metrics = json.loads((tmp_path / "auto" / "metrics.json").read_text())
    assert metrics["background_threshold"]["used"] == chosen["threshold"]
    how = "from images alone, and adapted to each image"
    assert metrics["background_threshold"]["used_was_chosen"] == how


def test_the_threshold_of_the_collection_is_adapted_to_each_image_by_default(run, labels, tmp_path):
    flags = ("--background_threshold", "0.4", "--threshold_adaptation", "1")
    assert label(tmp_path / "adapted", run, *flags) == 0
    assert tree(tmp_path / "adapted" / "masks") != tree(labels / "masks")  # 0.2 for all
    rows = (tmp_path / "adapted" / "images.csv").read_text().splitlines()
    column = rows[0].split(",").index("threshold")
    assert len({row.split(",")[column] for row in rows[1:]}) > 2


@pytest.mark.slow
def test_all_refinements_run_in_their_order(labels, run, tmp_path, tmp_path_factory):
    affinity = str(write_affinity_run(tmp_path_factory.mktemp("affinity")))
    flags = ("--refine", "pamr,walk,crf", "--affinity_model", affinity, "--background_alpha", "6")
    assert label(tmp_path / "labels", run, *flags) == 0
    summary = json.loads((tmp_path / "labels" / "summary.json").read_text())
    assert (summary["images"]["labelled"], summary["images"]["failed"]) == (12, 0)
    assert summary["options"]["refine"] == ["pamr", "walk", "crf"]
    assert summary["options"]["crf_unary"] == "probabilities"
    assert len(summary["affinity_model_hash"]) == 16
    assert tree(tmp_path / "labels" / "masks") != tree(labels / "masks")
    assert label(tmp_path / "other", run, "--refine", "walk") == 2


@pytest.mark.slow
def test_scores_walk_between_the_edges_of_an_irnet(labels, run, tmp_path, tmp_path_factory):
    edges = str(write_edge_run(tmp_path_factory.mktemp("edges")))
    flags = ("--refine", "walk", "--affinity_model", edges)
    assert label(tmp_path / "labels", run, *flags) == 0
    assert label(tmp_path / "shorter", run, *flags, "--walk_steps", "4") == 0
    summary = json.loads((tmp_path / "labels" / "summary.json").read_text())
    assert (summary["images"]["labelled"], summary["images"]["failed"]) == (12, 0)
    masks = [tree(folder / "masks") for folder in (labels, tmp_path / "labels", tmp_path / "shorter")]
    assert masks[0] != masks[1] != masks[2]


@pytest.mark.slow
def test_labels_for_an_affinity_network_are_a_collection_with_ignored_pixels(run, records, tmp_path):
    flags = ("--write", "affinity_labels", "--output_format", "tfrecord")
    assert label(tmp_path, run, *flags) == 0
    found = {
        int(value) for record in open_collection(str(tmp_path)).read("train") for value in record.mask.flat
    }
    assert 255 in found
    assert found <= {0, 1, 2, 3, 255}


@pytest.mark.slow
def test_everything_may_lie_in_a_bucket(labels, run, records, tmp_path, monkeypatch, capsys):
    """Model, collection, a folder of images, masks, their evaluation: all at `gs://`, the same bytes."""
    with emulated_bucket(monkeypatch) as bucket:
        for path in Path(run).iterdir():
            io.copy(str(path), f"{bucket}/run/{path.name}")
        write_collection(f"{bucket}/data", records)
        flags = ("--data", f"{bucket}/data")
        assert label(f"{bucket}/labels", f"{bucket}/run", *flags) == 0
        assert "3 of 3" not in capsys.readouterr().out
        assert label(f"{bucket}/labels", f"{bucket}/run", *flags) == 0
        assert "3 of 3 shards are done already" in capsys.readouterr().out
        remote = {path.split("/labels/")[1]: path for path in io.list_files(f"{bucket}/labels/**")}
        assert set(remote) == set(tree(labels))
        for name, content in tree(labels).items():
            if name.startswith(("masks", "scores", "manifests", "previews")) or name == "metrics.json":
                assert io.read_bytes(remote[name]) == content
        assert evaluate(["--predictions", f"{bucket}/labels", "--truth", f"{bucket}/data"]) == 0
        assert evaluate(["--predictions", f"{bucket}/labels/scores", "--truth", f"{bucket}/data"]) == 0

        change = ("--background_threshold", "0.45", "--overwrite")
        assert relabel([f"{bucket}/labels", "--output", f"{bucket}/anew", *change]) == 0
        assert label(f"{bucket}/labels", f"{bucket}/run", *flags, *change) == 0
        assert "3 of 3 shards are labeled from the scores" in capsys.readouterr().out
        changed = [io.list_files(f"{bucket}/{name}/masks/**") for name in ("anew", "labels")]
        assert [io.read_bytes(path) for path in changed[0]] == [io.read_bytes(path) for path in changed[1]]
        assert len(changed[0]) == 12

        io.write_bytes(f"{bucket}/photos/a.png", records[0].image_bytes)
        predicted = (
            "--data",
            f"{bucket}/photos",
            "--image_labels",
            "predicted",
            "--output_format",
            "tfrecord",
        )
        assert label(f"{bucket}/photo_labels", f"{bucket}/run", *predicted) == 0
        assert open_collection(f"{bucket}/photo_labels").split_sizes == {"train": 1}


@pytest.mark.parametrize(
    ("refine", "write", "of", "sweep_of"),
    [
        ([], "masks", "masks of the CAM scores", "CAM scores"),
        (["pamr"], "masks", "masks of the CAM scores after PAMR", "CAM scores after PAMR"),
        (
            ["walk", "crf"],
            "masks",
            "masks of the CAM scores, refined by random walk and CRF",
            "CAM scores before random walk and CRF",
        ),
        ([], "irn_labels", "masks of the CAM scores, refined by CRF", "CAM scores before CRF"),
    ],
)
def test_metrics_say_of_which_scores_they_are(refine, write, of, sweep_of):
    assert describe_scores({"refine": refine, "write": write}) == (of, sweep_of)


def test_the_report_names_the_scores_and_leaves_out_options_that_were_not_given(labels):
    page = (labels / "report.html").read_text()
    assert "(masks of the CAM scores)" in page
    assert "Background threshold: CAM scores" in page
    assert "<td>scales</td>" in page
    assert "<td>walk_beta</td>" not in page
    assert "<td>affinity_model</td>" not in page
