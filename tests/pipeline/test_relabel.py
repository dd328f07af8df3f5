"""Masks made anew from stored scores are those of the model with the same settings, to the byte."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

import wsss
from tests.pseudo_label_cases import (
    CLASS_NAMES,
    corrupt,
    label,
    tree,
    write_affinity_run,
    write_collection,
    write_segmentation_run,
)
from wsss.common import io
from wsss.common.errors import UserError
from wsss.inference.predictor import CamPredictor
from wsss.pipeline.output import ImageScores
from wsss.relabel import main as relabel


@pytest.fixture(scope="module")
def affinity(tmp_path_factory):
    return str(write_affinity_run(tmp_path_factory.mktemp("affinity")))


@pytest.fixture
def no_inference(monkeypatch):
    """Lets every use of a model that gives CAMs fail."""

    def refuse(*args, **options):
        raise AssertionError("the model is used")

    monkeypatch.setattr(CamPredictor, "__init__", refuse)
    monkeypatch.setattr(CamPredictor, "predict", refuse)
    monkeypatch.setattr("wsss.inference.loading.cached_predictor", refuse)


def without_scores(folder):
    """The files of an output, as they are without `--save_scores`."""
    files = {name: content for name, content in tree(folder).items() if not name.startswith("scores/")}
    for name in [*files]:
        if name.startswith("manifests/"):
            manifest = json.loads(files[name])
            manifest.pop("scores", None)
            files[name] = manifest
        elif name in ("options.json", "summary.json"):
            found = json.loads(files[name])
            found["options"].pop("save_scores")
            files[name] = found
    files.pop("report.html")  # names the option
    return files


def test_the_same_settings_give_the_same_files(labels, tmp_path, no_inference, capsys):
    before = tree(labels)
    assert relabel([str(labels), "--output", str(tmp_path / "again")]) == 0
    assert without_scores(tmp_path / "again") == without_scores(labels)
    assert not (tmp_path / "again" / "scores").exists()
    assert relabel([str(labels), "--output", str(tmp_path / "kept"), "--save_scores"]) == 0
    assert tree(tmp_path / "kept") == before == tree(labels)
    assert "12 images labeled, 0 failed; mIoU" in capsys.readouterr().out


def case(name, *flags, slow=False):
    return pytest.param(flags, id=name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(
    "flags",
    [
        case("threshold", "--background_threshold", "0.45"),
        case("records", "--background_alpha", "4", "--refine", "crf", "--output_format", "tfrecord"),
        case("auto", "--background_threshold", "auto"),
        case("PAMR", "--refine", "pamr", "--previews", "4", slow=True),
        case("walk", "--refine", "walk", slow=True),
        case("chosen", "--refine", "auto", slow=True),
        case("IRN", "--write", "irn_labels", slow=True),
    ],
)
def test_other_settings_give_what_the_model_gives_with_them(flags, labels, run, affinity, tmp_path, request):
    if "walk" in flags:
        flags = (*flags, "--affinity_model", affinity)
    assert label(tmp_path / "by_model", run, *flags) == 0
    request.getfixturevalue("no_inference")
    assert relabel([str(labels), "--output", str(tmp_path / "anew"), *flags]) == 0
    assert without_scores(tmp_path / "anew") == without_scores(tmp_path / "by_model")


@pytest.mark.slow
def test_labels_made_with_a_refinement_keep_the_scores_before_it(labels, run, tmp_path, affinity):
    flags = ("--refine", "pamr,walk,crf", "--affinity_model", affinity, "--background_alpha", "6")
    assert label(tmp_path / "refined", run, *flags) == 0
    assert tree(tmp_path / "refined" / "scores") == tree(labels / "scores")
    plain = ("--refine", "none", "--background_threshold", "0.2")
    assert relabel([str(tmp_path / "refined"), "--output", str(tmp_path / "plain"), *plain]) == 0
    assert without_scores(tmp_path / "plain") == without_scores(labels)
    anew = [str(tmp_path / "refined"), "--output", str(tmp_path / "anew")]
    assert relabel([*anew, "--direct_running_mode=multi_processing", "--direct_num_workers=2"]) == 0
    assert without_scores(tmp_path / "anew") == without_scores(tmp_path / "refined")


@pytest.mark.slow
@pytest.mark.parametrize("image_labels", ["truth", "predicted"])
def test_probabilities_of_a_segmentation_network_are_refined_anew(data, tmp_path, image_labels):
    run = str(write_segmentation_run(tmp_path, data))
    flags = ("--image_labels", image_labels, "--label_threshold", "0.2")
    assert label(tmp_path / "plain", run, *flags) == 0
    assert label(tmp_path / "refined", run, *flags, "--refine", "crf") == 0
    assert relabel([str(tmp_path / "plain"), "--output", str(tmp_path / "anew"), "--refine", "crf"]) == 0
    assert without_scores(tmp_path / "anew") == without_scores(tmp_path / "refined")
    assert tree(tmp_path / "anew" / "masks") != tree(tmp_path / "plain" / "masks")


def test_masks_are_replaced_in_place_with_overwrite_only_and_keep_their_scores(labels, tmp_path, capsys):
    folder = tmp_path / "labels"
    shutil.copytree(labels, folder)
    assert relabel([str(folder), "--background_threshold", "0.45"]) == 2
    assert "holds labels made with other options" in capsys.readouterr().err
    assert tree(folder) == tree(labels)
    assert relabel([str(folder), "--background_threshold", "0.45", "--overwrite"]) == 0
    assert tree(folder / "scores") == tree(labels / "scores")
    assert tree(folder / "masks") != tree(labels / "masks")
    assert relabel([str(folder), "--background_threshold", "0.2", "--overwrite"]) == 0
    assert tree(folder) == tree(labels)
    assert relabel([str(folder), "--no-save_scores", "--overwrite"]) == 2
    assert "would be lost" in capsys.readouterr().err


def test_replacing_masks_goes_on_after_a_stop(labels, tmp_path, monkeypatch):
    folder = tmp_path / "labels"
    shutil.copytree(labels, folder)
    write, stopped = io.write_json, []

    def stop(path, value):
        if "/manifests/" in str(path) and len(stopped) < 2:
            stopped.append(path)
            if len(stopped) == 2:
                raise KeyboardInterrupt
        write(path, value)

    change = [str(folder), "--background_threshold", "0.45", "--overwrite"]
    with monkeypatch.context() as patched:
        patched.setattr(io, "write_json", stop)
        assert relabel(change) == 130
    for name, content in tree(labels).items():
        assert name == "wsss_output.json" or tree(folder)[name] == content
    assert relabel(change) == 0
    assert relabel([str(labels), "--output", str(tmp_path / "anew"), *change[1:], "--save_scores"]) == 0
    assert tree(folder) == tree(tmp_path / "anew")


def test_pseudo_labels_with_another_threshold_take_the_scores_that_are_there(
    labels, run, tmp_path, no_inference, capsys
):
    folder = tmp_path / "labels"
    shutil.copytree(labels, folder)
    assert label(folder, run, "--background_threshold", "0.45", "--overwrite") == 0
    assert f"3 of 3 shards are labeled from the scores in {folder}" in capsys.readouterr().out
    assert relabel([str(labels), "--background_threshold", "0.45", "--output", str(tmp_path / "anew")]) == 0
    assert without_scores(folder) == without_scores(tmp_path / "anew")
    assert tree(folder / "scores") == tree(labels / "scores")


@pytest.mark.slow
def test_pseudo_labels_of_changed_images_come_from_the_model(run, records, tmp_path, capsys):
    data, folder = str(tmp_path / "data"), tmp_path / "labels"
    write_collection(data, records)
    flags = ("--data", data, "--overwrite")
    assert label(folder, run, *flags) == 0
    write_collection(data, [replace(records[0], labels=(1,)), *records[1:]])
    (folder / "scores" / f"{records[1].image_id}.npz").unlink()
    capsys.readouterr()
    assert label(folder, run, *flags, "--refine", "crf") == 0
    assert "1 of 3 shards are labeled from the scores" in capsys.readouterr().out
    assert label(tmp_path / "by_model", run, "--data", data, "--refine", "crf") == 0
    assert tree(folder) == tree(tmp_path / "by_model")
    for other in ("--no-mirror", "--overwrite"):  # other scores; the very same labels
        assert label(folder, run, *flags, "--refine", "crf", other) == 0
    assert "from the scores" not in capsys.readouterr().out


def test_scores_of_other_images_are_refused_in_one_line(labels, run, records, tmp_path, capsys):
    write_collection(str(tmp_path / "data"), [replace(records[0], labels=(1,)), *records[1:]])
    arguments = [str(labels), "--data", str(tmp_path / "data"), "--output", str(tmp_path / "anew")]
    assert relabel(arguments) == 2
    error = capsys.readouterr().err
    assert "images or tags of the shard train-00000-of-00003" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "anew").exists()
    classes = (*CLASS_NAMES[:2], "sheep")
    write_collection(str(tmp_path / "data"), records, class_names=classes)
    assert relabel(arguments) == 2
    assert "other classes" in capsys.readouterr().err


def test_images_that_were_moved_are_named_by_a_flag(run, records, tmp_path, capsys):
    write_collection(str(tmp_path / "before"), records)
    assert label(tmp_path / "labels", run, "--data", str(tmp_path / "before")) == 0
    (tmp_path / "before").rename(tmp_path / "now")
    arguments = [str(tmp_path / "labels"), "--output", str(tmp_path / "anew")]
    assert relabel(arguments) == 2
    assert f"`--data` names where the images of {tmp_path / 'labels'} are now" in capsys.readouterr().err
    assert relabel([*arguments, "--data", str(tmp_path / "now")]) == 0


def test_missing_and_damaged_score_files_are_failures_that_may_pass(labels, records, tmp_path, capsys):
    folder, (gone, cut, other) = tmp_path / "labels", [record.image_id for record in records[:3]]
    shutil.copytree(labels, folder)
    scores = {image_id: folder / "scores" / f"{image_id}.npz" for image_id in (gone, cut, other)}
    whole = {image_id: path.read_bytes() for image_id, path in scores.items()}
    scores[gone].unlink()
    scores[cut].write_bytes(whole[cut][:100])
    found = ImageScores.decode(whole[other])
    scores[other].write_bytes(found._replace(scores=found.scores[:, :-1]).encode())
    arguments = [str(folder), "--output", str(tmp_path / "anew"), "--max_error_rate", "0.2"]
    assert relabel(arguments) == 1
    errors = [json.loads(line) for line in (tmp_path / "anew" / "errors.jsonl").read_text().splitlines()]
    assert [error["id"] for error in errors] == [gone, cut, other]
    assert {(error["stage"], error["transient"]) for error in errors} == {("scores", True)}
    expected = (f"There is no {scores[gone]}", f"{scores[cut]} cannot be used: Not a whole", "of an image of")
    for error, reason in zip(errors, expected, strict=True):
        assert reason in error["reason"]
    for image_id, path in scores.items():
        path.write_bytes(whole[image_id])
    assert relabel(arguments) == 0
    assert tree(tmp_path / "anew" / "masks") == tree(labels / "masks")


def test_an_image_that_failed_fails_with_the_same_reason(run, records, tmp_path):
    data = str(tmp_path / "data")
    write_collection(data, [corrupt(records[0]), *records[1:]])
    assert label(tmp_path / "labels", run, "--data", data) == 0
    assert relabel([str(tmp_path / "labels"), "--output", str(tmp_path / "anew")]) == 0
    assert without_scores(tmp_path / "anew") == without_scores(tmp_path / "labels")
    assert json.loads((tmp_path / "anew" / "errors.jsonl").read_text())["stage"] == "decode"


def test_masks_of_a_folder_of_images_are_made_anew_beside_them(run, records, tmp_path):
    photos = tmp_path / "photos"
    for record in records[:4]:
        io.write_bytes(str(photos / f"{record.image_id}.png"), record.image_bytes)
    flags = ("--data", str(photos), "--image_labels", "predicted", "--label_threshold", "0.4")
    assert label(photos / "labels", run, *flags) == 0
    assert relabel([str(photos / "labels"), "--output", str(photos / "anew"), "--refine", "crf"]) == 0
    assert len(list((photos / "anew" / "masks").iterdir())) == 4


def test_masks_are_made_anew_without_tensorflow(labels, tmp_path):
    code = (
        "import sys\nfrom wsss.relabel import main\ncode = main(sys.argv[1:])\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\nsys.exit(code)"
    )
    arguments = [str(labels), "--output", str(tmp_path / "anew"), "--refine", "crf"]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


def test_labels_without_scores_are_one_line(labels, run, tmp_path, capsys):
    shutil.copytree(labels, tmp_path / "labels")
    options = io.read_json(str(tmp_path / "labels" / "options.json"))
    for change, message in (
        ({"save_scores": False}, "holds no scores"),
        ({"split": 3}, "`split` is 3"),
    ):
        changed = {**options, "options": {**options["options"], **change}}
        io.write_json(str(tmp_path / "labels" / "options.json"), changed)
        assert relabel([str(tmp_path / "labels"), "--output", str(tmp_path / "anew")]) == 2
        assert message in capsys.readouterr().err
    assert relabel([str(tmp_path / "nowhere"), "--output", str(tmp_path / "anew")]) == 2
    assert "holds no pseudo labels" in capsys.readouterr().err
    assert relabel([str(labels), "--scales", "1"]) == 2
    assert "Unknown argument `--scales`" in capsys.readouterr().err


def test_masks_are_made_anew_from_python(labels, tmp_path, no_inference):
    result = wsss.relabel_collection(
        str(labels), str(tmp_path / "anew"), background_threshold=0.45, refine="crf"
    )
    assert (result.labeled, result.background_threshold) == (12, 0.45)
    with pytest.raises(UserError, match="`scales` changes the scores"):
        wsss.relabel_collection(str(labels), str(tmp_path / "others"), scales=(1.0,))


def test_options_that_depend_on_one_another_are_taken_together(labels, run, affinity, tmp_path):
    """What is not given stays, but for defaults of another rule for the background, as from the start."""
    flags = ("--background_threshold", "auto", "--refine", "walk", "--affinity_model", affinity)
    assert relabel([str(labels), "--output", str(tmp_path / "auto"), "--save_scores", *flags]) == 0
    for change in (("--background_alpha", "4", "--refine", "crf"), ("--background_threshold", "0.3")):
        assert relabel([str(tmp_path / "auto"), "--output", str(tmp_path / change[0]), *change]) == 0
    alpha, constant = (
        io.read_json(str(tmp_path / name / "options.json"))["options"]
        for name in ("--background_alpha", "--background_threshold")
    )
    assert (alpha["background_threshold"], alpha["threshold_adaptation"]) == (None, 0.0)
    assert (alpha["crf_preset"], alpha["crf_unary"], alpha["affinity_model"]) == ("seam", "probabilities", "")
    assert (constant["background_threshold"], constant["threshold_adaptation"]) == (0.3, 0.0)
    assert (constant["crf_preset"], constant["refine"], constant["affinity_model"]) == (
        "ppc",
        ["walk"],
        affinity,
    )
