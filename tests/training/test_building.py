"""What the options of the training program build."""

import subprocess
import sys
from urllib.error import HTTPError, URLError

import keras
import pytest

from tests.pseudo_label_cases import make_records, write_collection
from wsss.common.errors import UserError
from wsss.optimizers import match_groups
from wsss.train import main
from wsss.training.building import make_backbone, make_model, make_optimizer, new_layers
from wsss.training.options import TrainingOptions


@pytest.mark.parametrize(
    ("backbone", "choice", "expected"),
    [
        ("small", "auto", False),
        ("small", "yes", True),
        ("MobileNetV2", "auto", True),
        ("mobilenet_v2", "no", False),
    ],
)
def test_what_pixels_are_compared_by_is_standardized_where_that_helps(backbone, choice, expected):
    options = TrainingOptions(backbone=backbone, backbone_weights="none", standardize_correlation=choice)
    model = make_model(options, 3, make_backbone(options))
    assert ("correlation_standardized" in [layer.name for layer in model.network.layers]) is expected


def test_a_backbone_without_fine_stages_is_refused_for_class_boundaries(tmp_path):
    path = tmp_path / "coarse.keras"
    image = keras.Input((None, None, 3))
    keras.Model(image, keras.layers.Conv2D(4, 9, strides=8, padding="same")(image)).save(path)
    options = TrainingOptions(model="irn", backbone=str(path), output_stride=8)
    with pytest.raises(UserError, match="IRN's branches need a stage at stride 4"):
        make_model(options, 3, make_backbone(options))


def test_displacements_learn_ten_times_as_fast_as_edges():
    options = TrainingOptions(model="irn", backbone="small", backbone_weights="none", output_stride=8)
    backbone = make_backbone(options)
    new = new_layers(make_model(options, 3, backbone), backbone)
    groups = make_optimizer(options, new, 10).groups
    edge, displacement = match_groups(groups, ["fc_edge2-0/kernel", "fc_dp2-0/kernel"])
    assert edge.learning_rate_multiplier == options.new_layer_multiplier
    assert displacement.learning_rate_multiplier == 10 * edge.learning_rate_multiplier


@pytest.mark.slow
def test_a_deterministic_run_does_one_operation_after_the_other():
    """Side by side they share the cores differently each time, and gradients differ in their last bits."""
    program = (
        "import tensorflow as tf; from wsss.training.building import set_numerics; "
        "from wsss.training.device import choose_device_settings; "
        "from wsss.training.options import TrainingOptions; options = TrainingOptions(deterministic=True); "
        "set_numerics(options, choose_device_settings(options)); "
        "print(tf.config.threading.get_inter_op_parallelism_threads())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]
    program = "import tensorflow as tf; tf.zeros(1); " + program.removeprefix("import tensorflow as tf; ")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "--deterministic needs a process of its own" in done.stderr


@pytest.mark.parametrize("failure", [URLError("no route"), HTTPError("https://host", 404, "gone", {}, None)])
def test_weights_that_cannot_be_downloaded_name_the_flag(monkeypatch, failure):
    def get_file(*arguments, **options):  # as Keras's own does without a network
        try:
            raise failure
        except URLError:
            raise Exception("URL fetch failure")  # noqa: B904

    monkeypatch.setattr(keras.src.utils.file_utils, "get_file", get_file)
    with pytest.raises(UserError, match="--backbone_weights"):
        make_backbone(TrainingOptions(backbone="MobileNetV2"))


def test_a_collection_without_the_split_for_evaluation_names_the_ways_out(tmp_path, capsys):
    write_collection(str(tmp_path / "data"), make_records(4))
    assert main(["--data", str(tmp_path / "data"), "--output", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no split `val`, only train. Train without evaluation by `--val_split none`" in line
    assert not (tmp_path / "run").exists()
