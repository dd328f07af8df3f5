"""ResNet-38d and the published heads on it: the recorded numbers."""

import keras
import numpy as np
import pytest

from tests.golden import assert_close, golden_cases, golden_file
from tests.models.formula_weights import formula_tensors, read_names, salt_of
from wsss.backbones.resnet38 import OUTPUT_STRIDE, resnet38
from wsss.ops.resize import resize_bilinear
from wsss.weights.mapping import load_tensors, published_variables
from wsss.weights.published import build_network


@pytest.fixture(scope="module")
def networks():
    """The published networks, built once; filled with the weights that a case asks for."""
    built = {}

    def network(name, case):
        salt = salt_of(case)
        if name not in built:
            built[name] = [build_network(name, classes=20, normalize=False), None]
        model, filled_with = built[name]
        if filled_with != salt:
            shapes = read_names(golden_file_of(name))
            assert not load_tensors(model, formula_tensors(shapes, salt))
            built[name][1] = salt
        return model

    return network


def golden_file_of(network):
    if network == "pixel2prototype":
        return golden_file("c_names_resnet38_contrast.txt")
    return golden_file("c_names_resnet38_seam.txt")


def channels_first(tensor):
    return np.moveaxis(keras.ops.convert_to_numpy(tensor), -1, 1)


@pytest.mark.slow
@golden_cases("c_seam_net")
def test_seam_network_gives_the_recorded_maps(case, networks):
    model = networks("seam", case)
    inner = model.network
    block_names = [str(name) for name in case["block_names"]] if "block_names" in case else []
    outputs = {
        "conv4": inner.get_layer("b5-bn_branch2a-relu").output,
        "conv5": inner.get_layer("b6-bn_branch2a-relu").output,
        "conv6": inner.get_layer("bn7-relu").output,
        "cam_lowres": inner.get_layer("cam_head").output,
        "cam_rv": inner.get_layer("pixel_correlation").output,
        **{name: inner.get_layer(f"{name}-add").output for name in block_names},
    }
    image = case.channels_last("x")
    actual = keras.Model(inner.input, outputs)(image)
    for name, every in (("conv4", 16), ("conv5", 32), ("conv6", 128)):
        assert_close(channels_first(actual[name])[:, ::every], case[f"{name}_every{every}"], rtol=3e-5)
    for name, statistics in zip(block_names, case["block_stats"] if block_names else (), strict=True):
        block = keras.ops.convert_to_numpy(actual[name])[0]
        row, column = block.shape[0] // 2, block.shape[1] // 2
        expected = [block.mean(), block.std(ddof=1), *block[row, column, :6]]
        assert_close(np.array(expected), statistics, rtol=3e-5)
    assert_close(channels_first(actual["cam_lowres"]), case["cam_lowres"], rtol=3e-5)
    for name, low_resolution in (("cam", "cam_lowres"), ("cam_rv", "cam_rv")):
        upsampled = resize_to_image(actual[low_resolution], image)
        assert_close(channels_first(upsampled), case[name], rtol=3e-5)


@pytest.mark.slow
@golden_cases("c_contrast_net")
def test_contrast_network_gives_the_recorded_projections(case, networks):
    model = networks("pixel2prototype", case)
    outputs = [model.network.get_layer(name).output for name in ("projection", "pixel_correlation")]
    projection, refined = keras.Model(model.network.input, outputs)(case.channels_last("x"))
    assert_close(np.maximum(channels_first(projection), 0), case["f_proj"], rtol=3e-5)
    assert_close(channels_first(refined), case["cam_rv_down"], rtol=3e-5)


def resize_to_image(maps, image):
    return resize_bilinear(maps, image.shape[1:3], align_corners=True)


@pytest.mark.parametrize("size", [(64, 96), (61, 83), (8, 8), (1, 1)])
def test_features_are_an_eighth_of_any_image(small_network, size):
    stages = small_network(np.zeros((2, *size, 3), "float32"))
    expected = tuple(-(-side // OUTPUT_STRIDE) for side in size)
    assert [stage.shape[1:3] for stage in stages] == [expected] * 3


@pytest.fixture(scope="module")
def small_network():
    features = resnet38(width=1 / 16)
    return keras.Model(features.image, [features.stage4, features.stage5, features.stage6])


def test_network_survives_saving(small_network, tmp_path):
    small_network.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    image = np.random.default_rng(0).uniform(size=(1, 33, 40, 3)).astype("float32")
    for actual, expected in zip(again(image), small_network(image), strict=True):
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(x) for x in (actual, expected)))


def test_dropout_acts_in_training_only(small_network):
    image = np.random.default_rng(0).uniform(size=(1, 33, 40, 3)).astype("float32")
    one, other = (keras.ops.convert_to_numpy(small_network(image, training=False)[2]) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    for layer in small_network.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    one, other = (keras.ops.convert_to_numpy(small_network(image, training=True)[2]) for _ in range(2))
    assert np.abs(one - other).max() > 0


@golden_cases("c_seam_net")
def test_layers_bear_the_published_names(case):
    features = resnet38(width=1 / 16)
    published = set(read_names(golden_file("c_names_resnet38_seam.txt")))
    heads = {"fc8.weight", "f8_3.weight", "f8_4.weight", "f9.weight"}
    assert set(published_variables(keras.Model(features.image, features.stage6))) == published - heads
