"""Pretrained networks made dense: what they compute stays, at more places."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.gradients import to_numpy
from tests.models.networks import images_and_labels
from wsss.backbones.applications import application_names, build_backbone
from wsss.backbones.base import freeze
from wsss.backbones.dilation import DilatedPooling2D, to_dense


def dense_model(model, output_stride, channels=3):
    image = layers.Input((None, None, channels))
    return keras.Model(image, to_dense(model, image, output_stride).output)


def assert_equal_where_both_are(model, size, output_stride, stride, first=0):
    """The strided features are the dense ones at every `r`-th cell from `first` on."""
    image = np.random.default_rng(0).uniform(-1, 1, (1, size, size, 3)).astype("float32")
    expected = to_numpy(model(image))
    dense = to_numpy(dense_model(model, output_stride)(image))
    ratio = stride // output_stride
    assert dense.shape[1] >= (expected.shape[1] - 1) * ratio + 1
    actual = dense[:, first::ratio, first::ratio][:, : expected.shape[1], : expected.shape[2]]
    assert actual.shape == expected.shape
    assert expected.std() > 0
    tolerance = 0 if ratio == 1 else 2e-5 * np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=0)


def convolution(kernel, padding, **options):
    return layers.Conv2D(4, kernel, strides=2, padding=padding, **options)


# Every way in which CNNs lose resolution, before two more convolutions: (layers, size of the image).
DOWNSAMPLING = {
    "same": ([convolution(3, "same")], 33),
    "same_5": ([convolution(5, "same")], 33),
    "valid": ([convolution(3, "valid")], 33),
    "pointwise": ([convolution(1, "valid")], 32),
    "patches": ([convolution(2, "valid")], 32),
    "padded_evenly": ([layers.ZeroPadding2D(1), convolution(3, "valid")], 32),
    "padded_7": ([layers.ZeroPadding2D(3), convolution(7, "valid")], 32),
    "depthwise": ([layers.DepthwiseConv2D(3, strides=2, padding="same")], 33),
    "separable": ([layers.SeparableConv2D(4, 3, strides=2, padding="same")], 33),
    "max_pooling": ([layers.MaxPooling2D(2)], 32),
    "max_pooling_same": ([layers.MaxPooling2D(3, 2, padding="same")], 33),
    "max_pooling_padded": ([layers.ZeroPadding2D(1), layers.MaxPooling2D(3, 2)], 32),
    "average_pooling": ([layers.AveragePooling2D(2)], 32),
    "average_pooling_same": ([layers.AveragePooling2D(3, 2, padding="same")], 33),
}


@pytest.mark.parametrize("way", DOWNSAMPLING)
@pytest.mark.parametrize("output_stride", [1, 2, 4])
def test_strides_become_dilation_in_every_kind_of_layer(way, output_stride):
    """Twice in a row, so that the second is dilated and loses its stride."""
    keras.utils.set_random_seed(0)
    parts, size = DOWNSAMPLING[way]
    copies = [type(part).from_config({**part.get_config(), "name": None}) for part in [*parts, *parts]]
    after = [
        layers.Conv2D(5, 3, padding="same", activation="tanh"),
        layers.MaxPooling2D(3, 1, padding="same"),
    ]
    model = keras.Sequential([layers.Input((None, None, 3)), *copies, *after])
    assert_equal_where_both_are(model, size, output_stride, 4)


def test_uneven_padding_is_centered():
    """MobileNet pads below and right only; the dense windows have their center on the cell."""
    keras.utils.set_random_seed(0)
    padding = ((0, 1), (0, 1))
    stack = [layers.Input((None, None, 3))]
    for _ in range(2):
        stack += [layers.ZeroPadding2D(padding), convolution(3, "valid")]
    model = keras.Sequential(stack)
    assert_equal_where_both_are(model, 32, 1, 4, first=3)
    dense = dense_model(model, 1)
    assert not any(isinstance(layer, layers.ZeroPadding2D) for layer in dense.layers)


def test_branches_nested_models_and_shared_layers_are_followed():
    keras.utils.set_random_seed(0)
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    inner_image = layers.Input((None, None, 4))
    inner = keras.Model(inner_image, layers.Conv2D(4, 3, padding="same")(shared(inner_image)), name="inner")
    image = layers.Input((None, None, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="entry")(image)
    gate = layers.Conv2D(4, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply()([x, layers.Activation("sigmoid")(gate)])
    branches = [layers.Conv2D(4, 3, strides=2, padding="same")(x), layers.Conv2D(4, 1, strides=2)(x)]
    x = layers.Concatenate()([layers.Add()(branches), layers.MaxPooling2D(3, 2, padding="same")(x)])
    x = layers.Conv2D(4, 1)(x)
    block = keras.Sequential([layers.Conv2D(4, 3, padding="same"), layers.ReLU()])
    model = keras.Model(image, shared(layers.Add()([inner(x), block(x)])))
    # The gate is a mean over all cells: equal only where the stride before it stays.
    assert_equal_where_both_are(model, 33, 2, 4)
    dense = dense_model(model, 2)
    assert [layer.name for layer in dense.layers].count("shared") == 1
    assert dense.get_layer("shared").dilation_rate == (2, 2)
    assert shared.dilation_rate == (1, 1)  # the given network is left alone


def test_stages_are_the_last_features_at_each_stride():
    blocks = [convolution(3, "same", name=f"stage{i}") for i in range(3)]
    model = keras.Sequential([layers.Input((None, None, 3)), *blocks, layers.ReLU(name="end")])
    image = layers.Input((None, None, 3))
    dense = to_dense(model, image, 4)
    assert list(dense.stages) == [1, 2, 4, 8]
    assert dense.stages[8] is dense.output
    assert dense.output_stride == 4


def test_layers_that_cannot_be_dilated_are_named():
    odd = keras.Sequential(
        [layers.Input((None, None, 3)), layers.Conv2D(4, 3, strides=(2, 1), name="uneven")]
    )
    with pytest.raises(ValueError, match="uneven"):
        dense_model(odd, 1)
    transposed = keras.Sequential(
        [layers.Input((None, None, 3)), layers.Conv2DTranspose(4, 3, strides=2, name="up")]
    )
    with pytest.raises(ValueError, match="up"):
        dense_model(transposed, 1)


@pytest.mark.parametrize("mode", ["max", "average"])
def test_dilated_pooling_without_gaps_is_pooling(mode):
    x = np.random.default_rng(0).normal(size=(2, 7, 8, 3)).astype("float32") - 5
    layer = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}[mode](3, 1, padding="same")
    dilated = DilatedPooling2D(mode, (3, 3), 1, ((1, 1), (1, 1)))
    np.testing.assert_allclose(to_numpy(dilated(x)), to_numpy(layer(x)), atol=1e-5)
    again = DilatedPooling2D.from_config(dilated.get_config())
    assert again.compute_output_shape((None, None, 8, 3)) == (None, None, 8, 3)
    np.testing.assert_array_equal(to_numpy(again(x)), to_numpy(dilated(x)))


# Network -> (size of the image, first cell at a ratio of 2).
APPLICATIONS = {
    "MobileNetV2": (96, 1),
    "ResNet50": (96, 0),
    "EfficientNetB0": (96, 1),
    "VGG16": (64, 0),
    "DenseNet121": (64, 0),
    "MobileNet": (96, 1),
    "MobileNetV3Small": (96, 1),
    "ResNet50V2": (96, 0),
    "InceptionV3": (139, 0),
    "Xception": (71, 0),  # odd wherever it loses resolution by "same" padding
    "ConvNeXtTiny": (64, 0),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "MobileNetV2" else pytest.mark.slow) for n in APPLICATIONS]
)
def test_published_networks_keep_their_features(name):
    keras.utils.set_random_seed(0)
    size, first = APPLICATIONS[name]
    model = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(None, None, 3))
    assert_equal_where_both_are(model, size, 32, 32)
    image = np.random.default_rng(0).uniform(-1, 1, (1, size, size, 3)).astype("float32")
    expected, dense = to_numpy(model(image)), to_numpy(dense_model(model, 16)(image))
    actual = dense[:, first::2, first::2][:, : expected.shape[1], : expected.shape[2]]
    if name in ("EfficientNetB0", "MobileNetV3Small"):  # squeeze-and-excite sees more cells
        assert np.corrcoef(actual.ravel(), expected.ravel())[0, 1] > 0.95
    else:
        np.testing.assert_allclose(actual, expected, atol=3e-5 * np.abs(expected).max(), rtol=0)


@pytest.fixture(scope="module")
def own_network(tmp_path_factory):
    """A user's network with a classifier, saved at a fixed size."""
    keras.utils.set_random_seed(0)
    image = layers.Input((64, 64, 3))
    x = image
    for i in range(4):
        x = layers.Conv2D(4, 3, strides=2, padding="same", name=f"convolution{i}")(x)
        x = layers.BatchNormalization(name=f"norm{i}")(x)
        x = layers.ReLU()(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, layers.Dense(5, activation="softmax")(x))
    path = tmp_path_factory.mktemp("network") / "own.keras"
    model.save(path)
    return path


def test_own_file_loses_its_head_and_takes_any_size(own_network):
    backbone = build_backbone(own_network, output_stride=8)
    model = keras.Model(backbone.input, backbone.feature)
    assert model(images_and_labels(1, 40, 56)[0]).shape == (1, 5, 7, 4)
    assert backbone.output_stride == 8
    assert backbone.preprocessing == "tf"
    assert backbone.pad_value == (0.5, 0.5, 0.5)
    original = keras.models.load_model(own_network)
    features = keras.Model(original.input, original.layers[-4].output)
    images = images_and_labels(2, 64, 64)[0]
    same = build_backbone(own_network, output_stride=16)
    np.testing.assert_array_equal(
        to_numpy(keras.Model(same.input, same.feature)(images)), to_numpy(features(images * 2 - 1))
    )


def test_own_normalization_in_the_file_is_respected(tmp_path):
    for scale, expected in ((1 / 255, "raw"), (2.0, "none")):
        stack = [layers.Input((None, None, 3)), layers.Rescaling(scale, -0.5), layers.Conv2D(4, 3, strides=2)]
        keras.Sequential(stack).save(tmp_path / "model.keras")
        backbone = build_backbone(tmp_path / "model.keras")
        assert backbone.preprocessing == expected
        zero = keras.Model(backbone.input, backbone.normalized)(
            np.float32(backbone.pad_value).reshape(1, 1, 1, 3)
        )
        np.testing.assert_allclose(to_numpy(zero) * scale, 0.5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "mode"), [("VGG16", "caffe"), ("DenseNet121", "torch"), ("MobileNetV2", "tf")]
)
def test_normalization_is_that_of_keras_applications(name, mode, monkeypatch):
    small = keras.Sequential([layers.Input((None, None, 3)), layers.Conv2D(2, 1)])
    monkeypatch.setattr("wsss.backbones.applications._application", lambda *args: small)
    backbone = build_backbone(name, weights=None)
    assert backbone.preprocessing == mode
    images = images_and_labels(1)[0]
    actual = to_numpy(keras.Model(backbone.input, backbone.normalized)(images))
    expected = keras.applications.imagenet_utils.preprocess_input(images * 255, mode=mode)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    color = np.float32(backbone.pad_value).reshape(1, 1, 1, 3)
    zero = keras.Model(backbone.input, backbone.normalized)(color)
    np.testing.assert_allclose(to_numpy(zero), 0, atol=1e-4)


def test_frozen_layers_do_not_learn_and_stay_frozen_in_files(own_network, tmp_path):
    backbone = build_backbone(own_network, frozen_prefixes=("convolution0",), frozen_fraction=0.5)
    model = keras.Model(backbone.input, backbone.feature)
    trainable = [layer.name for layer in model.layers if layer.trainable_weights]
    assert trainable == ["convolution2", "convolution3"]  # half of 8, and every batch normalization
    model.save(tmp_path / "frozen.keras")
    again = keras.models.load_model(tmp_path / "frozen.keras")
    assert [layer.name for layer in again.layers if layer.trainable_weights] == trainable
    free = build_backbone(own_network, frozen_batch_norm=False)
    assert len(keras.Model(free.input, free.feature).trainable_weights) == 16


def test_correlation_feature_joins_color_and_two_stages(own_network):
    backbone = build_backbone(own_network, output_stride=8)
    model = keras.Model(backbone.input, backbone.correlation_feature())
    assert model(images_and_labels(1, 40, 56)[0]).shape == (1, 5, 7, 192)
    embedding = model.get_layer("correlation_embedding")
    assert embedding.kernel.shape == (1, 1, 3 + 64 + 128, 192)
    shallow = keras.Sequential([layers.Input((None, None, 3)), layers.Conv2D(4, 3, padding="same")])
    shallow.save(own_network.with_name("shallow.keras"))
    backbone = build_backbone(own_network.with_name("shallow.keras"))
    assert backbone.correlation_feature().shape[-1] == 192


def test_a_standardized_correlation_feature_is_blind_to_what_all_pixels_share(own_network):
    backbone = build_backbone(own_network, output_stride=8)
    model = keras.Model(backbone.input, backbone.correlation_feature(standardize=True))
    images = images_and_labels(1, 40, 56)[0]
    feature = to_numpy(model(images))
    np.testing.assert_allclose(feature.mean(axis=(1, 2)), 0, atol=1e-4 * np.abs(feature).max())
    joined = keras.Model(backbone.input, model.get_layer("correlation_standardized").output)
    color = to_numpy(joined(images))[..., :3]
    np.testing.assert_allclose(color.std(axis=(1, 2)), 1, atol=0.05)


def test_mistakes_are_named(own_network, tmp_path):
    with pytest.raises(ValueError, match=r"did you mean .*MobileNetV2.*\?"):
        build_backbone("MobileNet17")
    with pytest.raises(ValueError, match="does not exist"):
        build_backbone(tmp_path / "missing.keras")
    with pytest.raises(ValueError, match="no file"):
        build_backbone("MobileNetV2", weights=str(tmp_path / "missing.weights.h5"))
    other = keras.Sequential([layers.Input((8, 8, 3)), layers.Conv2D(4, 3)])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=r"other\.weights\.h5 holds no weights of MobileNetV2") as refused:
        build_backbone("MobileNetV2", weights=str(tmp_path / "other.weights.h5"))
    assert len(str(refused.value)) < 500
    with pytest.raises(ValueError, match="preprocessing"):
        build_backbone(own_network, preprocessing="pytorch")
    with pytest.raises(ValueError, match="block9"):
        build_backbone(own_network, frozen_prefixes=("block9",))
    with pytest.raises(ValueError, match="frozen_fraction"):
        freeze(keras.Sequential([layers.Input((3,))]), fraction=2)
    flat = keras.Sequential([layers.Input((4, 4, 3)), layers.Flatten(), layers.Reshape((6, 8))])
    flat.save(tmp_path / "flat.keras")
    with pytest.raises(ValueError, match="feature map"):
        build_backbone(tmp_path / "flat.keras")


def test_networks_are_known_by_their_names():
    assert {"MobileNetV2", "ResNet50", "ConvNeXtTiny"} <= set(application_names())


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("MobileNetV2", "mobilenet_v2_imagenet_notop.weights.h5"),
        ("mobilenet_edgetpu_imagenet_notop.keras", None),
    ],
)
def test_pretrained_networks_see_the_same_in_a_photograph(shared_data, name, weights):
    folder = shared_data / "weights"
    source = folder / name if weights is None else name
    weights = weights and str(folder / weights)
    photograph = sorted((shared_data / "msrc_v2" / "images").glob("*.jpg"))[0]
    size = (224, 288) if weights else (193, 257)
    image = keras.utils.img_to_array(keras.utils.load_img(photograph, target_size=size))[None] / 255
    if weights:
        original = keras.applications.MobileNetV2(
            include_top=False, weights=weights, input_shape=(224, 224, 3)
        )
        original = dense_model(original, 32)  # the same layers, for any size
    else:
        original = keras.models.load_model(source)
    expected = to_numpy(original(image * 2 - 1))
    for output_stride, ratio in ((32, 1), (16, 2), (8, 4)):
        backbone = build_backbone(source, weights=weights, output_stride=output_stride)
        actual = to_numpy(keras.Model(backbone.input, backbone.feature)(image))
        first = ratio - 1 if weights else 0
        at_same_cells = actual[:, first::ratio, first::ratio]
        tolerance = 0 if ratio == 1 else 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(at_same_cells, expected, atol=tolerance, rtol=0)


def test_a_file_with_layers_of_the_users_own_is_refused_by_the_name_of_the_layer(tmp_path):
    image = keras.Input((None, None, 3))
    own = type("OwnLayer", (keras.layers.Layer,), {"call": lambda self, x: x, "__module__": "not_imported"})
    keras.Model(image, own()(image)).save(tmp_path / "own.keras")
    with pytest.raises(ValueError, match=r"a layer of your own, `OwnLayer`.*register_keras_serializable"):
        build_backbone(str(tmp_path / "own.keras"))
