"""`python -m wsss.convert`: published files in, Keras files out, mistakes in one line."""

import io
import zipfile

import keras
import numpy as np
import pytest

import wsss.weights.published as published
from tests.test_examples import run_example
from tests.weights.test_mapping import mxnet_file, tensor, torch_zip
from wsss.backbones.applications import build_backbone
from wsss.backbones.resnet import torchvision_backbone
from wsss.convert import main
from wsss.weights.conversion import NETWORKS
from wsss.weights.mapping import published_tensors
from wsss.weights.published import build_network, count_classes, identify

WIDTH = 1 / 32


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    """The program builds every network this much narrower."""
    build = published.build_network
    monkeypatch.setattr(
        published, "build_network", lambda *args, **kwargs: build(*args, width=WIDTH, **kwargs)
    )


@pytest.fixture(scope="module")
def seam_tensors():
    return random_tensors(build_network("seam", 3, width=WIDTH))


def random_tensors(model):
    generator = np.random.default_rng(0)
    return {
        name: generator.uniform(0.1, 1, value.shape).astype("float32")
        for name, value in published_tensors(model).items()
    }


def write_torch(path, tensors):
    """A `.pth` file as PyTorch writes it, made without PyTorch."""
    tree = {
        name: tensor(str(i), value.size, value.shape, strides_of(value))
        for i, (name, value) in enumerate(tensors.items())
    }
    path.write_bytes(torch_zip(tree, {str(i): value for i, value in enumerate(tensors.values())}))
    return str(path)


def strides_of(value):
    return tuple(stride // value.itemsize for stride in value.strides)


def run(*arguments, capsys=None):
    """Exit code, and the one line on stderr."""
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err if capsys else ""


def test_a_state_dict_becomes_a_model_that_loads_by_itself(seam_tensors, tmp_path):
    source = write_torch(tmp_path / "seam.pth", seam_tensors)
    assert run(source, tmp_path / "seam.keras")[0] == 0
    model = keras.models.load_model(tmp_path / "seam.keras")
    assert model.classes == 3
    for name, value in published_tensors(model).items():
        np.testing.assert_array_equal(value, seam_tensors[name])
    image = np.random.default_rng(0).uniform(size=(1, 40, 32, 3)).astype("float32")
    assert model.cam(image).shape == (1, 5, 4, 3)
    assert model.classification_activation == "sigmoid"  # scores are probabilities, as of a trained model


def test_the_example_of_the_function_runs(seam_tensors, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_torch(tmp_path / "resnet38_SEAM.pth", seam_tensors)
    run_example("convert_weights")
    assert capsys.readouterr().out.startswith("seam ")
    assert (tmp_path / "seam.keras").exists()


def test_weights_alone_fit_the_backbone(seam_tensors, tmp_path):
    source = write_torch(tmp_path / "seam.pth", seam_tensors)
    assert run(source, tmp_path / "backbone.weights.h5", "--network", "resnet38")[0] == 0
    model = build_network("resnet38", width=WIDTH)
    model.load_weights(tmp_path / "backbone.weights.h5")
    for name, value in published_tensors(model).items():
        np.testing.assert_array_equal(value, seam_tensors[name])


@pytest.mark.slow
def test_a_converted_resnet_is_a_backbone_of_any_stride(tmp_path):
    strided = build_network("resnet50", width=WIDTH)
    source = write_torch(tmp_path / "resnet50.pth", random_tensors(strided))
    assert run(source, tmp_path / "resnet50.keras")[0] == 0
    backbone = build_backbone(tmp_path / "resnet50.keras", output_stride=8)
    dense = torchvision_backbone(50, 8, width=WIDTH)
    assert backbone.pad_value == pytest.approx(dense.pad_value)
    image = np.random.default_rng(0).uniform(size=(1, 64, 48, 3)).astype("float32")
    outputs = []
    for network in (backbone, dense):
        model = keras.Model(network.input, network.feature)
        model.set_weights(strided.get_weights())
        outputs.append(keras.ops.convert_to_numpy(model(image)))
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


def test_mxnets_backbone_is_converted(tmp_path):
    tensors = random_tensors(build_network("resnet38", width=WIDTH))
    arrays = {mxnet_name(name): value for name, value in tensors.items()}
    arrays["arg:linear1000_weight"] = np.zeros((2, 2), "float32")
    (tmp_path / "resnet38.params").write_bytes(mxnet_file(arrays, version=0))
    assert run(tmp_path / "resnet38.params", tmp_path / "resnet38.keras")[0] == 0
    model = keras.models.load_model(tmp_path / "resnet38.keras")
    for name, value in published_tensors(model).items():
        np.testing.assert_array_equal(value, tensors[name])


def mxnet_name(name):
    """The inverse of the program's renaming."""
    layer, *branch, last = name.split(".")
    kind = "aux:" if last.startswith("running") else "arg:"
    if not branch and layer == "conv1a":
        return "arg:conv1a_weight"
    ends = {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    if not branch:
        return f"{kind}bn7_{ends.get(last, 'gamma')}"
    stage, _, number = layer[1:].partition("_")
    place = f"{stage}b{number}" if number else f"{stage}a"
    operation, _, rest = branch[0].partition("_")
    if operation == "conv":
        return f"arg:res{place}_{rest}_weight"
    return f"{kind}bn{place}_{rest}_{ends.get(last, 'gamma')}"


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_is_known_by_its_names(network):
    tensors = published_tensors(build_network(network, 3, width=1 / 64))
    assert identify(tensors) == network
    assert count_classes(network, tensors) in (3, None)


def test_the_programs_list_of_networks_is_complete():
    assert set(NETWORKS) == set(published.NETWORKS)


def test_a_renamed_tensor_is_named(seam_tensors, tmp_path, capsys):
    tensors = dict(seam_tensors)
    tensors["b4_3.conv.weight"] = tensors.pop("b4_3.conv_branch2a.weight")
    code, error = run(write_torch(tmp_path / "a.pth", tensors), tmp_path / "a.keras", capsys=capsys)
    assert code == 2
    assert error.count("\n") == 1
    assert "tensor `b4_3.conv_branch2a.weight` is missing" in error
    assert "a.pth" in error
    assert not (tmp_path / "a.keras").exists()


def test_a_missing_classifier_is_named(seam_tensors, tmp_path, capsys):
    tensors = {name: value for name, value in seam_tensors.items() if name != "fc8.weight"}
    code, error = run(write_torch(tmp_path / "a.pth", tensors), tmp_path / "a.keras", capsys=capsys)
    assert code == 2
    assert "tensor `fc8.weight` is missing" in error


def test_a_mis_shaped_tensor_is_named(seam_tensors, tmp_path, capsys):
    tensors = {**seam_tensors, "f9.weight": np.zeros((1, 2, 3, 4), "float32")}
    code, error = run(write_torch(tmp_path / "a.pth", tensors), tmp_path / "a.keras", capsys=capsys)
    assert code == 2
    assert "`f9.weight` has shape (1, 2, 3, 4), expected" in error


def test_a_cut_file_is_one_line(seam_tensors, tmp_path, capsys):
    write_torch(tmp_path / "a.pth", seam_tensors)
    data = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(data[: len(data) // 2])
    code, error = run(tmp_path / "a.pth", tmp_path / "a.keras", capsys=capsys)
    assert code == 2
    assert error.count("\n") == 1
    assert "damaged or cut off" in error


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "neither a PyTorch"), (b"\x89PNG\r\n\x1a\n", "neither a PyTorch")],
    ids=["empty", "picture"],
)
def test_another_kind_of_file_is_one_line(data, message, tmp_path, capsys):
    (tmp_path / "a.pth").write_bytes(data)
    code, error = run(tmp_path / "a.pth", tmp_path / "a.keras", capsys=capsys)
    assert code == 2
    assert error.count("\n") == 1
    assert message in error


def test_unknown_tensors_are_refused_with_the_list_of_networks(tmp_path, capsys):
    source = write_torch(tmp_path / "a.pth", {"encoder.weight": np.zeros((2, 2), "float32")})
    code, error = run(source, tmp_path / "a.keras", capsys=capsys)
    assert code == 2
    assert "the first is `encoder.weight`" in error
    assert "irn_edge" in error


def test_a_missing_file_is_one_line(tmp_path, capsys):
    code, error = run(tmp_path / "none.pth", tmp_path / "a.keras", capsys=capsys)
    assert code == 2
    assert "none.pth: there is no such file" in error


def test_an_archive_in_disguise_is_refused(tmp_path, capsys):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("word/document.xml", "text")
    (tmp_path / "a.pth").write_bytes(stream.getvalue())
    code, error = run(tmp_path / "a.pth", tmp_path / "a.keras", capsys=capsys)
    assert code == 2
    assert "not one of PyTorch's" in error


def test_the_destination_must_be_a_keras_file(tmp_path, capsys):
    code, error = run("a.pth", tmp_path / "a.pb", capsys=capsys)
    assert code == 2
    assert ".keras or .weights.h5" in error


def test_an_existing_destination_is_kept(tmp_path, capsys):
    (tmp_path / "a.keras").write_text("mine")
    code, error = run("a.pth", tmp_path / "a.keras", capsys=capsys)
    assert code == 2
    assert "--overwrite" in error
    assert (tmp_path / "a.keras").read_text() == "mine"


def test_files_of_pytorch_itself_are_converted(torch, seam_tensors, tmp_path):
    state = {f"module.{name}": torch.from_numpy(value) for name, value in seam_tensors.items()}
    state["module.bn7.num_batches_tracked"] = torch.tensor(3)
    torch.save(state, tmp_path / "seam.pth")
    assert run(tmp_path / "seam.pth", tmp_path / "seam.keras")[0] == 0
    model = keras.models.load_model(tmp_path / "seam.keras")
    for name, value in published_tensors(model).items():
        np.testing.assert_array_equal(value, seam_tensors[name])
