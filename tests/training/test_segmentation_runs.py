"""Training of the segmentation network from label maps, through `wsss.train`."""

import os

import keras
import numpy as np
import pytest

from tests.training.small_runs import assert_equal_weights, command_line, draw_collection, run, start
from wsss.common import io
from wsss.common.file_names import file_name
from wsss.data.dataset import open_collection
from wsss.data.images import encode_mask
from wsss.train import main
from wsss.training.callbacks import read_history
from wsss.training.options import OF_MODEL, TrainingOptions, default_values, parse_options

pytestmark = pytest.mark.slow
FLAGS = {"model": "deeplab", "epochs": 3, "new_layer_multiplier": 1, "optimizer": "adamw"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_collection(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def masks(data, tmp_path_factory):
    """The true masks as a folder of label maps."""
    folder = str(tmp_path_factory.mktemp("masks"))
    for record in open_collection(data).read("train"):
        io.write_bytes(io.join(folder, f"{file_name(record.image_id)}.png"), encode_mask(record.mask))
    return folder


@pytest.fixture(scope="module")
def trained(data, masks, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("runs") / "run")
    assert main(command_line(data, output, masks=masks, **FLAGS)) == 0
    return output


def test_a_run_learns_and_measures_the_true_masks_of_val(trained, masks):
    rows = read_history(os.path.join(trained, "history.csv"))
    assert float(rows[-1]["segmentation_loss"]) < float(rows[0]["segmentation_loss"])
    assert all(
        0 <= float(row["val_miou"]) <= 1 and 0 <= float(row["val_pixel_accuracy"]) <= 1 for row in rows
    )
    assert not any("map" in name for name in rows[0] if name != "val_miou")
    result = io.read_json(os.path.join(trained, "result.json"))
    assert (result["status"], result["learned"], result["best_val_map"]) == ("finished", True, None)
    assert io.read_json(os.path.join(trained, "config.json"))["options"]["masks"] == masks


def test_the_saved_model_segments_images_of_any_size(trained):
    model = keras.models.load_model(os.path.join(trained, "model.keras"))
    images = np.random.default_rng(0).uniform(size=(1, 44, 60, 3)).astype("float32")
    assert model.probabilities(images).shape == (1, 11, 15, 3)


def test_the_same_label_maps_as_masks_of_the_shards_give_the_same_run(trained, data, tmp_path):
    output = str(tmp_path / "run")
    assert main(command_line(data, output, **FLAGS)) == 0
    assert_equal_weights(trained, output)


def test_changed_label_maps_are_noticed(data, masks, tmp_path, capsys):
    copy, output = tmp_path / "masks", str(tmp_path / "run")
    for path in io.list_files(io.join(masks, "*.png")):
        io.copy(path, copy / os.path.basename(path))
    arguments = command_line(data, output, masks=copy, **{**FLAGS, "epochs": 1, "val_split": "none"})
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert "finished already" in capsys.readouterr().out
    io.write_bytes(path.replace(masks, str(copy)), encode_mask(np.ones((40, 40), np.uint8)))
    assert main(arguments) == 2
    assert f"what is at {copy} has changed since" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(data, masks, trained, tmp_path):
    output = str(tmp_path / "run")
    arguments = command_line(data, output, masks=masks, checkpoint_steps=1, **FLAGS)
    process = start(arguments)
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            process.kill()
            break
    process.communicate()
    assert not io.exists(os.path.join(output, "result.json"))
    assert "Resuming" in run(arguments)[0]
    assert_equal_weights(output, trained, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_replicas_train_as_one(data, masks, tmp_path):
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    flags = {"masks": masks, "val_split": "none", **FLAGS, "optimizer": "sgd", "epochs": 1}
    assert main([*command_line(data, one, **flags), "--no-dropout"]) == 0
    replicas = {"strategy": "mirrored", "cpu_replicas": 2}
    run([*command_line(data, two, **flags, **replicas), "--no-dropout"])
    assert_equal_weights(one, two, rtol=1e-3, atol=1e-4)


def test_val_without_masks_is_not_measured(trained, data, tmp_path, monkeypatch):
    from wsss.training.loop import make_evaluator

    class WithoutMasks:
        has_masks = False

    assert make_evaluator(TrainingOptions(model="deeplab", data=data), WithoutMasks()) is None


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"model": "seam"}, "--masks is for the models affinity, irn and deeplab"),
        ({"masks": "no_such_folder", "model": "deeplab"}, "There is no folder no_such_folder"),
    ],
)
def test_mistakes_are_one_line(flags, named, data, masks, tmp_path, capsys):
    assert main(command_line(data, str(tmp_path / "run"), **{"masks": masks, **flags})) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line


def test_the_models_own_defaults_give_way_to_flags_and_presets():
    own = OF_MODEL["deeplab"]
    given = parse_options(["--data=x", "--model=deeplab", "--epochs=3"])
    assert (given.epochs, given.learning_rate) == (3, own["learning_rate"])
    assert parse_options(["--data=x", "--model=seam"]).optimizer == "sgd"
    assert default_values("deeplabv2_resnet101", "x", "deeplab")["optimizer"] == "sgd"
    assert "learning_rate" not in default_values("", "x", "seam")
