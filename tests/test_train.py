"""`python -m wsss.train`, through `main(argv)` and as a process."""

import json
import os
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.small_runs import (
    STEPS_PER_EPOCH,
    assert_equal_weights,
    command_line,
    draw_collection,
    finish,
    run,
    start,
    weights,
)
from wsss.common import io
from wsss.data.dataset import open_collection
from wsss.train import main
from wsss.training.baseline import constant_scores
from wsss.training.callbacks import read_history


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_collection(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def number_format():
    """Gives the tests after this one their number format back."""
    before = tf.keras.config.dtype_policy()
    yield
    tf.keras.config.set_dtype_policy(before)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished run of two epochs."""
    output = str(tmp_path_factory.mktemp("runs") / "run")
    assert main(command_line(data, output)) == 0
    return output


def test_a_run_leaves_model_history_config_and_result(trained, data):
    config = io.read_json(os.path.join(trained, "config.json"))
    assert config["class_names"] == ["striped_disc", "checked_square"]
    assert config["options"]["view_scale"] == 0.5
    assert config["data"] == data
    assert {"tensorflow", "keras", "wsss", "python"} <= set(config["versions"])
    assert io.read_json(os.path.join(trained, "result.json"))["status"] == "finished"
    assert list(Path(trained, "tensorboard").glob("events*"))
    rows = read_history(os.path.join(trained, "history.csv"))
    assert len(rows) == 2
    for name in ("loss", "classification_loss", "er_loss", "val_map", "val_miou", "val_best_miou"):
        assert all(np.isfinite(float(row[name])) for row in rows), name
    assert float(rows[0]["learning_rate"]) > float(rows[1]["learning_rate"])


def test_the_saved_model_takes_images_of_any_size(trained):
    model = tf.keras.models.load_model(os.path.join(trained, "model.keras"))
    images = np.random.default_rng(0).uniform(size=(2, 44, 60, 3)).astype("float32")
    assert model.predict(images, verbose=0).shape == (2, 2)
    assert model.refined_cam(images).shape == (2, 6, 8, 2)


def test_a_finished_run_is_left_as_it_is(trained, data, capsys):
    before = Path(trained, "model.keras").stat().st_mtime_ns
    assert main(command_line(data, trained)) == 0
    assert "finished already" in capsys.readouterr().out
    assert Path(trained, "model.keras").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_same_command_gives_the_same_weights_and_history(trained, data, tmp_path):
    again = str(tmp_path / "again")
    assert main(command_line(data, again)) == 0
    assert_equal_weights(trained, again)
    assert Path(again, "history.csv").read_bytes() == Path(trained, "history.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["classifier", "pixel2prototype"])
def test_other_models_train_with_their_own_terms(model, data, tmp_path):
    output = str(tmp_path / "run")
    assert main(command_line(data, output, model=model, epochs=1, val_split="none")) == 0
    (row,) = read_history(os.path.join(output, "history.csv"))
    assert ("er_loss" in row) == (model != "classifier")
    assert np.isfinite(float(row["loss"]))


@pytest.mark.slow
def test_the_frequencies_of_the_tags_become_part_of_the_class_scores(data, tmp_path):
    output = str(tmp_path / "run")
    arguments = command_line(data, output, model="seam", epochs=1, val_split="none")
    assert main([*arguments, "--class_prior"]) == 0
    model = tf.keras.models.load_model(os.path.join(output, "model.keras"))
    assert model.score_offset == pytest.approx(constant_scores(open_collection(data), "train").logits)


@pytest.mark.slow
def test_adamw_and_random_affine_views_train(data, tmp_path):
    output = str(tmp_path / "run")
    arguments = command_line(data, output, view="affine", optimizer="adamw", learning_rate=1e-3, epochs=1)
    assert main([*arguments, "--mixed_precision", "bfloat16"]) == 0
    assert io.exists(os.path.join(output, "model.keras"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [["--mixed_precision", "float16"], ["--jit_compile"]], ids=lambda flags: flags[0]
)
def test_half_precision_and_xla_train_as_well(flags, trained, data, tmp_path):
    output = str(tmp_path / "run")
    assert main([*command_line(data, output), *flags]) == 0
    rows = [read_history(os.path.join(path, "history.csv"))[-1] for path in (trained, output)]
    np.testing.assert_allclose(float(rows[1]["loss"]), float(rows[0]["loss"]), rtol=0.05)


@pytest.mark.slow
def test_several_steps_an_execution_give_the_same_run(trained, data, tmp_path):
    output = str(tmp_path / "run")
    arguments = command_line(data, output, steps_per_execution=3, checkpoint_steps=1)  # 2 at once, of 4
    assert main(arguments) == 0
    assert_equal_weights(trained, output, rtol=1e-4, atol=1e-5)
    result = io.read_json(os.path.join(output, "result.json"))
    assert result["steps"] == 2 * STEPS_PER_EPOCH
    assert io.read_json(os.path.join(output, "config.json"))["device"]["steps_per_execution"] == 3


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_good_weights(data, tmp_path, capsys):
    output = str(tmp_path / "run")
    flags = {"learning_rate": 1e30, "schedule": "constant", "val_split": "none"}
    assert main(command_line(data, output, **flags)) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: Stopped at step")
    result = io.read_json(os.path.join(output, "result.json"))
    assert result["status"] == "stopped"
    assert all(np.isfinite(weight).all() for weight in weights(output))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"split": "trian"}, "trian"),
        ({"val_split": "test"}, "test"),
        ({"data": "no_such_folder"}, "no_such_folder"),
        ({"backbone": "NoNet"}, "NoNet"),
        ({"backbone_weights": "missing.h5"}, "missing.h5"),
        ({"backbone": "missing.keras"}, "missing.keras"),
        ({"batch_size": 100}, "16"),
        ({"output_stride": 32}, "output_stride"),
        ({"frozen_layers": "no_such_stage"}, "no_such_stage"),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(flags, named, data, tmp_path, capsys):
    output = str(tmp_path / "run")
    assert main(command_line(**{"data": data, "output": output, **flags})) == 2
    written = capsys.readouterr().err.strip()
    assert written.startswith("error: ")
    assert "\n" not in written
    assert named in written
    assert not io.exists(output), "a mistake leaves nothing behind"


@pytest.mark.slow
def test_images_that_are_too_small_for_a_backbone_are_one_line(data, tmp_path, capsys):
    image = keras.Input((None, None, 3))
    feature = keras.layers.Conv2D(4, 8, strides=8, padding="same")(image)
    keras.Model(image, keras.layers.Conv2D(4, 7)(feature)).save(tmp_path / "wide.keras")
    flags = {"backbone": str(tmp_path / "wide.keras"), "model": "classifier", "image_size": 32}
    assert main(command_line(data, str(tmp_path / "run"), **flags)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: --image_size 32")
    assert "too small for --backbone" in line


LONG_ENOUGH_TO_KILL = {"epochs": 3, "model": "seam", "view": "affine"}


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("runs") / "undisturbed")
    run(command_line(data, output, **LONG_ENOUGH_TO_KILL))
    return output


@pytest.mark.slow
@pytest.mark.parametrize("saved_steps", [0, 3])
def test_a_killed_run_goes_on_to_the_same_end(saved_steps, undisturbed, data, tmp_path):
    flags = {"checkpoint_steps": saved_steps, **LONG_ENOUGH_TO_KILL}
    killed = str(tmp_path / "killed")
    process = start(command_line(data, killed, progress_seconds=0, **flags))
    target = f"epoch 2/3, step {STEPS_PER_EPOCH - 1}/"
    assert any(target in line for line in process.stdout), process.stderr.read()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not io.exists(os.path.join(killed, "model.keras"))

    written, _ = run(command_line(data, killed, **flags))
    assert "Resuming" in written
    assert_equal_weights(undisturbed, killed)
    assert Path(killed, "history.csv").read_bytes() == Path(undisturbed, "history.csv").read_bytes()


@pytest.mark.slow
def test_bare_it_draws_a_collection_and_trains_on_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    written, _ = run(["--strategy", "mirrored", "--epochs", "1"])
    assert "drawing a small collection" in written
    assert Path("runs/seam-1/model.keras").exists()
    _, errors = finish(start(["--strategy", "tpu", "--output", "elsewhere"]), expected_code=2)
    assert errors.splitlines()[-1].startswith("error: --strategy tpu found no TPU")
    assert "Traceback" not in errors


@pytest.mark.slow
def test_an_affinity_network_learns_from_masks(data, tmp_path):
    output = str(tmp_path / "run")
    flags = {"model": "affinity", "image_size": 96, "long_side": "96,120"}
    assert main(command_line(data, output, **flags)) == 0
    rows = read_history(os.path.join(output, "history.csv"))
    assert [name for name in rows[0] if name.endswith("_loss")] == [
        "background_loss",
        "foreground_loss",
        "negative_loss",
    ]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    model = tf.keras.models.load_model(os.path.join(output, "model.keras"))
    affinity = model.affinity(np.zeros((1, 40, 48, 3), "float32"))
    assert affinity.shape == (1, 5, 6, 34)


@pytest.mark.slow
def test_an_inter_pixel_relation_network_learns_from_masks(data, tmp_path):
    output = str(tmp_path / "run")
    flags = {"model": "irn", "image_size": 96, "long_side": "96,120", "learning_rate": 0.001}
    assert main(command_line(data, output, **flags)) == 0
    rows = read_history(os.path.join(output, "history.csv"))
    assert {"background_loss", "displacement_foreground_loss"} <= set(rows[0])
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    model = tf.keras.models.load_model(os.path.join(output, "model.keras"))
    assert model.edge(np.zeros((1, 40, 48, 3), "float32")).shape == (1, 10, 12, 1)


@pytest.mark.parametrize(("model", "smallest"), [("affinity", 72), ("irn", 76)])
def test_a_network_of_pairs_refuses_crops_without_pairs(model, smallest, data, tmp_path, capsys):
    assert main(command_line(data, str(tmp_path / "run"), model=model, image_size=64)) == 2
    assert f"--image_size {smallest} or more" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


def diverge(data, output, **flags):
    """Trains with a learning rate of 0, at which no network learns; the exit code and `result.json`."""
    code = main(command_line(data, str(output), **{"learning_rate": 0, **flags}))
    return code, json.loads((output / "result.json").read_text())


@pytest.mark.slow
def test_a_network_that_does_not_learn_is_trained_once_more_and_reported(data, tmp_path, capsys):
    code, result = diverge(data, tmp_path / "run")
    assert (code, result["restarts"], result["learned"]) == (0, 1, False)
    written = capsys.readouterr()
    assert "restarting once with learning rate 0" in written.out
    assert "The network has not learned" in written.err


@pytest.mark.slow
def test_a_network_that_does_not_learn_stops_the_run_if_asked(data, tmp_path, capsys):
    code, result = diverge(data, tmp_path / "run", on_divergence="stop")
    assert (code, result["status"], result["restarts"]) == (1, "stopped", 0)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--learning_rate" in line
