"""What 0.1.0 wrote opens today and gives the recorded outputs; `0.1.0/README.md` says how it was written."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import wsss.models  # noqa: F401  so that `.keras` files load
from wsss import SEAM, Pixel2Prototype

# Keras reads files of older versions, and not those of newer ones.
pytestmark = pytest.mark.skipif(
    tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15), reason="the files are of Keras 3.15"
)
OLD = Path(__file__).with_name("0.1.0")
IMAGES = np.random.default_rng(0).uniform(size=(2, 32, 40, 3)).astype("float32")
CAM_OUTPUTS = ("predict", "cam", "refined_cam", "classifier")
OUTPUTS = {
    "seam": CAM_OUTPUTS,
    "pixel2prototype_dilated": CAM_OUTPUTS,
    "classifier": ("predict", "cam", "classifier"),
    "seam_resnet38_layers": CAM_OUTPUTS,
    "affinity_net": ("predict", "affinity"),
    "affinity": ("predict",),
    "irnet": ("predict", "edge"),
    "nonlocal": ("predict",),
}
REGISTERED = {
    *("SEAM", "Pixel2Prototype", "Classifier", "AffinityNet", "IRNet"),
    *(
        "StopGradient",
        "ResizeLike",
        "ImageScores",
        "PixelCorrelation",
        "NonLocal",
        "UpsampleLike",
        "MeanShift",
    ),
    "SparseAffinity",
    *("WideConv2D", "DilatedConv2D", "DilatedPooling2D"),
    *("GroupedSGD", "GroupedAdamW", "PolynomialSchedule"),
}
TRAIN = shlex.split(
    "--data shards --backbone models/mobile.keras --backbone_weights none --output_stride 8 --image_size 32 "
    "--long_side 32,40 --batch_size 4 --model seam --learning_rate 0.0001 --new_layer_multiplier 1"
)
LABEL = shlex.split(
    "--runner=DirectRunner --model run --data shards --split train --scales 1 --no_mirror --save_scores "
    "--background_threshold 0.4"
)


def assert_recorded(name, outputs, images=IMAGES):
    """Compares the outputs of models, by name, with the arrays that 0.1.0 recorded."""
    with np.load(OLD / "models" / f"{name}.npz") as file:
        recorded = dict(file)
    for key, model in outputs.items():
        value = model.predict_on_batch(images)
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, actual in parts:
            expected = recorded.pop(f"{key}_{part}" if part else key)
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5, err_msg=f"{key} {part}")
    if name == "classifier":
        del recorded["refined_cam"]  # by a correlation that nothing taught; the class has none any more
    assert not recorded


def train(*flags):
    """Runs an old command, with the options that are new since at what 0.1.0 did; the exit code."""
    from wsss.train import main
    from wsss.training.run_dir import _BEFORE

    values = {
        name: value for name, value in _BEFORE.items() if value is not False
    }  # flags that are not given
    as_before = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return main([*TRAIN, *as_before, *flags])


def registered_names(config):
    """Names `wsss>…` anywhere in the configuration of a `.keras` file."""
    if isinstance(config, dict):
        own = {config["registered_name"]} if config.get("registered_name") else set()
        return own.union(*map(registered_names, config.values()))
    return set().union(*map(registered_names, config)) if isinstance(config, list) else set()


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of all old files as the working directory, as their relative paths want it."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_keras_file_gives_the_recorded_outputs(name):
    model = keras.models.load_model(OLD / "models" / f"{name}.keras")
    parts = {part: model if part == "predict" else getattr(model, part) for part in OUTPUTS[name]}
    assert_recorded(name, parts)


def test_the_files_hold_every_registered_class():
    found = set()
    for path in OLD.glob("models/*.keras"):
        with zipfile.ZipFile(path) as file:
            found |= registered_names(json.loads(file.read("config.json")))
    assert {name.removeprefix("wsss>") for name in found if name.startswith("wsss>")} == REGISTERED


def test_importing_the_models_alone_registers_every_class():
    code = (
        "import keras, wsss.models\n"
        "print(*(name for name in keras.saving.get_custom_objects() if name.startswith('wsss>')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert {name.removeprefix("wsss>") for name in done.stdout.split()} >= REGISTERED, done.stderr


@pytest.mark.parametrize("model_class", [SEAM, Pixel2Prototype])
def test_an_h5_file_and_its_config_give_the_recorded_outputs(model_class):
    name = model_class.__name__.lower()
    config = json.loads((OLD / "models" / f"{name}_h5_config.json").read_text())
    model = model_class.load(str(OLD / "models" / f"{name}.h5"), **config)
    outputs = {"predict": model, "refined_cam": model.refined_cam}
    assert_recorded(f"{name}_h5", outputs, IMAGES[:, :28, :28, :1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seam", "pixel2prototype_dilated"])
def test_a_compiled_model_trains_on(name):
    model = keras.models.load_model(OLD / "models" / f"{name}.keras")
    labels = np.eye(2, 3, dtype="float32")
    history = model.fit(IMAGES, labels, batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.backends("tensorflow", reason="wsss.train")
def test_a_finished_run_is_known_as_finished(old, capsys):
    before = (old / "run" / "model.keras").read_bytes()
    assert train("--epochs", "1", "--momentum", "0", "--output", "run") == 0
    assert "finished" in capsys.readouterr().out
    assert (old / "run" / "model.keras").read_bytes() == before


def test_an_old_run_says_which_new_default_differs(old, capsys):
    from wsss.train import main

    assert main([*TRAIN, "--epochs", "1", "--momentum", "0", "--output", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--clip_norm 0.0 there, 1.0 here" in line


@pytest.mark.slow
@pytest.mark.backends("tensorflow", reason="wsss.train")
def test_a_stopped_run_goes_on(old, capsys):
    assert train("--epochs", "3", "--output", "stopped_run") == 0
    assert re.search(r"epoch (\d)/3", capsys.readouterr().out)[1] == "2"
    assert len((old / "stopped_run" / "history.csv").read_text().splitlines()) == 4
    assert keras.models.load_model("stopped_run/model.keras").predict(IMAGES, verbose=0).shape == (2, 2)


def test_shards_hold_what_was_prepared():
    from wsss.data.dataset import open_collection

    collection = open_collection(str(OLD / "shards"))
    assert collection.class_names == ("disc", "square")
    assert dict(collection.split_sizes) == {"train": 8, "val": 2}
    assert collection.has_masks


@pytest.mark.parametrize(
    ("folder", "flags"),
    [("labels", ["--previews", "1"]), ("label_shards", ["--previews", "0", "--output_format", "tfrecord"])],
)
def test_old_labels_are_made_again_once_to_the_same_masks(folder, flags, old, capsys):
    """Their manifests tell a shard by its count of records, which cannot show that the tags are the same."""
    from wsss.pseudo_labels import main

    before = {path: path.read_bytes() for path in old.glob(f"{folder}/masks/*.png")}
    assert main([*LABEL, "--output", folder, *flags]) == 0
    assert "8 images labeled, 0 failed" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in old.glob(f"{folder}/masks/*.png")} == before
    assert main([*LABEL, "--output", folder, *flags]) == 0
    assert "2 of 2 shards" in capsys.readouterr().out


@pytest.mark.parametrize("predictions", ["labels", "labels/scores", "label_shards"])
def test_labels_are_evaluated_and_reported(predictions, old, capsys):
    from wsss import evaluate, report

    recorded = json.loads(Path("labels/metrics.json").read_text())
    arguments = ["--predictions", predictions, "--truth", "shards", "--output", "evaluation"]
    assert evaluate.main(arguments) == 0
    assert recorded
    assert "square" in capsys.readouterr().out
    if predictions == "labels":
        assert report.main(["labels"]) == 0
        assert "square" in Path("labels/report.html").read_text()
