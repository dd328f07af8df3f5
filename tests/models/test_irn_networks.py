"""IRN's networks: the recorded numbers, sizes, and what is frozen."""

import keras
import numpy as np
import pytest

from tests.golden import assert_close, golden_cases, golden_file
from tests.models.formula_weights import formula_tensors, read_names, salt_of
from wsss.models.irn import MeanShift, irn_cam, irn_edge, merge_mirrored_edges
from wsss.weights.mapping import load_tensors, published_variables


@pytest.fixture(scope="module")
def cam_network():
    return irn_cam(normalize=False)


@pytest.fixture(scope="module")
def edge_network():
    return irn_edge(normalize=False)


@pytest.fixture(scope="module")
def small_edge_network():
    return irn_edge(width=0.1)


def values(tensor):
    return keras.ops.convert_to_numpy(tensor)


def fill(model, shapes, case):
    left_over = load_tensors(model, formula_tensors(shapes, salt_of(case)))
    assert not left_over


@pytest.mark.slow
@golden_cases("c_irn_cam")
def test_class_maps_of_the_recorded_network(case, cam_network):
    fill(cam_network, read_names(golden_file("c_names_irn_resnet50_cam.txt")), case)
    image = case.channels_last("x")
    cam, mirrored = values(cam_network(np.concatenate([image, image[:, :, ::-1]])))
    merged = np.maximum(cam, 0) + np.maximum(mirrored, 0)[:, ::-1]
    assert_close(np.moveaxis(merged, -1, 0), case["cam_sum_flip"], rtol=1e-4)
    assert_close(cam.mean((0, 1))[None], case["logits"], rtol=1e-4)


@pytest.mark.slow
@golden_cases("c_irn_edge")
def test_edges_and_displacements_of_the_recorded_network(case, edge_network):
    fill(edge_network, read_names(golden_file("c_names_irn_resnet50_irn.txt")), case)
    image = case.channels_last("x")
    _, height, width, _ = image.shape
    crop = int(case["crop_size"])
    around = ((0, 0), (0, crop - height), (0, crop - width), (0, 0))
    padded = np.concatenate([np.pad(image, around), np.pad(image[:, :, ::-1], around)])
    outputs = edge_network(padded)
    edge, displacement = values(outputs["edge"]), values(outputs["displacement"])
    assert_close(np.moveaxis(edge[:1], -1, 1), case["raw_edge_unflipped_padded"], rtol=1e-4)
    assert_close(np.moveaxis(displacement[:1], -1, 1), case["raw_dp_unflipped_padded"], rtol=1e-4)
    rows, columns = case["edge_sigmoid"].shape[1:]
    edge, displacement = edge[:, :rows, :columns], displacement[:, :rows, :columns]
    merged = values(merge_mirrored_edges(edge[:1], edge[1:]))
    assert_close(merged[..., 0], case["edge_sigmoid"], rtol=1e-4)
    assert_close(np.moveaxis(displacement[0], -1, 0), case["displacement"], rtol=1e-4)


@golden_cases("c_irn_cam")
def test_layers_bear_the_published_names(case):
    shapes = read_names(golden_file("c_names_irn_resnet50_cam.txt"))
    assert set(published_variables(irn_cam(width=0.1))) == set(shapes)


def test_edge_network_trains_only_its_branches(small_edge_network):
    trained = {variable.path for variable in small_edge_network.trainable_variables}
    assert trained
    assert all(path.startswith(("fc_edge", "fc_dp")) for path in trained)


@pytest.mark.parametrize("size", [(64, 64), (61, 83), (1, 1)])
def test_edges_and_displacements_have_a_quarter_of_the_size(size, small_edge_network):
    outputs = small_edge_network(np.zeros((1, *size, 3), "float32"))
    expected = tuple(-(-side // 4) for side in size)
    assert outputs["edge"].shape == (1, *expected, 1)
    assert outputs["displacement"].shape == (1, *expected, 2)


def test_networks_survive_saving(small_edge_network, tmp_path):
    small_edge_network.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    image = np.random.default_rng(0).uniform(size=(1, 33, 40, 3)).astype("float32")
    actual = again(image)
    for name, expected in small_edge_network(image).items():
        np.testing.assert_array_equal(values(actual[name]), values(expected))


def test_mean_shift_follows_the_mean_in_training_and_subtracts_it_after():
    layer = MeanShift(momentum=0.5)
    x = np.full((1, 2, 2, 2), [2.0, 4.0], "float32")
    np.testing.assert_allclose(layer(x, training=True), x)
    np.testing.assert_allclose(layer(x), x - np.array([1.0, 2.0]))
