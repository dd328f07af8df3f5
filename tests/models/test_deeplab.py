"""DeepLab: configuration, files and `fit` as of every model, its heads, and that it learns."""

import json

import keras
import numpy as np
import pytest

from tests.models.networks import ALWAYS_COMPILED, losses_of
from wsss.backbones.resnet import torchvision_backbone
from wsss.backbones.resnet38 import resnet38_backbone
from wsss.backbones.tiny import small_backbone
from wsss.models.deeplab import HEADS, DeepLab

SIDE = 32
EXPECTED_CELLS = {"deeplabv3plus": 8, "largefov": 4, "deeplabv2": 4}

each_head = pytest.mark.parametrize("head", HEADS)


def values(tensor):
    return keras.ops.convert_to_numpy(tensor)


def small_model(head="deeplabv3plus", *, run_eagerly=not ALWAYS_COMPILED, jit_compile=ALWAYS_COMPILED):
    """A network without dropout, so that a training step is the same each time."""
    keras.utils.set_random_seed(0)
    backbone = small_backbone(width=8, input_shape=(None, None, 3))
    model = DeepLab.from_backbone(backbone, 2, head=head, channels=8, rates=(1, 2), dropout=0.0)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), run_eagerly=run_eagerly, jit_compile=jit_compile)
    return model


def squares(count=4, height=SIDE, width=SIDE):
    """Images of a red square and a blue one on noise, and their label maps."""
    rng = np.random.default_rng(0)
    labels = np.zeros((count, height, width), "uint8")
    for label_map in labels:
        y, x = rng.integers(0, (height - 12, width - 12))
        label_map[y : y + 6, x : x + 12] = 1
        label_map[y + 6 : y + 12, x : x + 12] = 2
    images = rng.uniform(0, 0.3, (count, height, width, 3))
    images[..., 0] += 0.6 * (labels == 1)
    images[..., 2] += 0.6 * (labels == 2)
    labels[:, 0] = 255
    return images.astype("float32"), labels


@each_head
def test_configuration_survives_json(head):
    model = small_model(head)
    config = json.loads(json.dumps(model.get_config()))
    before = json.dumps(config)
    again = DeepLab.from_config(config)
    assert json.dumps(config) == before
    assert (again.name, again.classes) == (model.name, 2)
    assert [tuple(w.shape) for w in again.weights] == [tuple(w.shape) for w in model.weights]


@pytest.mark.parametrize(
    "head", [HEADS[0], *(pytest.param(head, marks=pytest.mark.slow) for head in HEADS[1:])]
)
def test_saved_model_is_equal_and_trains_on_alike(head, tmp_path):
    images, labels = squares()
    model = small_model(head)
    model.fit(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is DeepLab
    np.testing.assert_array_equal(again.predict_on_batch(images), model.predict_on_batch(images))
    one, other = (
        losses_of(m.fit(images, labels, verbose=0, epochs=2, shuffle=False)) for m in (model, again)
    )
    assert one == other  # the momentum came along too


@each_head
def test_probabilities_and_scores_are_those_of_the_logits(head):
    images, _ = squares(2)
    model = small_model(head)
    logits = model.predict_on_batch(images)
    assert logits.shape == (2, EXPECTED_CELLS[head], EXPECTED_CELLS[head], 3)
    probabilities = model.probabilities.predict_on_batch(images)
    np.testing.assert_allclose(probabilities, values(keras.ops.softmax(logits)), rtol=1e-5)
    scores = model.classifier.predict_on_batch(images)
    np.testing.assert_allclose(scores, probabilities[..., 1:].max(axis=(1, 2)), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "head", "cells"),
    [
        (lambda: resnet38_backbone(width=0.05), "largefov", (5, 6)),
        (lambda: resnet38_backbone(width=0.05), "deeplabv3plus", (5, 6)),
        (lambda: torchvision_backbone(101, 8, width=0.1), "deeplabv2", (5, 6)),
        (lambda: torchvision_backbone(50, 16, width=0.1), "deeplabv3plus", (9, 12)),
    ],
)
def test_published_pairs_of_network_and_head(backbone, head, cells):
    model = DeepLab.from_backbone(backbone(), 20, head=head, channels=16)
    image = np.zeros((1, 36, 47, 3), "float32")
    assert values(model(image)).shape == (1, *cells, 21)


def test_rates_double_at_stride_8():
    def rates_at(stride):
        model = DeepLab.from_backbone(small_backbone(stride, width=8), 2, channels=8)
        names = [f"pyramid_rate{rate}_depthwise" for rate in (6, 12, 18)]
        names = [name for name in names if name in {layer.name for layer in model.network.layers}]
        return [model.network.get_layer(name).dilation_rate[0] for name in names]

    assert rates_at(16) == [6, 12, 18]
    assert rates_at(8) == [12, 24, 36]


def test_images_of_any_size_go_through():
    model = small_model()
    for height, width in ((33, 47), (20, 64)):
        images, labels = squares(2, height, width)
        assert all(np.isfinite(model.train_on_batch(images, labels)))
        assert model.predict_on_batch(images).shape == (2, -(-height // 4), -(-width // 4), 3)


def test_unknown_pixels_do_not_count():
    images, labels = squares(2)
    model = small_model()
    logs = model.evaluate(images, np.full_like(labels, 255), verbose=0, return_dict=True)
    assert logs["loss"] == 0
    expected = model.evaluate(images[:1], labels[:1], verbose=0, return_dict=True)
    labels[1] = 255
    assert model.evaluate(images, labels, verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-4)


def test_images_of_weight_zero_count_for_nothing():
    images, labels = squares(4)
    weights = np.float32([1, 1, 0, 0])
    fitted = [
        losses_of(small_model().fit(images, labels, sample_weight=w, verbose=0, shuffle=False))
        for w in (weights, 2 * weights)
    ]
    images[2:] = 1 - images[2:]
    other = losses_of(small_model().fit(images, labels, sample_weight=weights, verbose=0, shuffle=False))
    assert other["loss"] == pytest.approx(fitted[0]["loss"], rel=1e-4)
    assert fitted[1]["loss"] == pytest.approx(2 * fitted[0]["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [("mixed_float16", 0.03), pytest.param("mixed_bfloat16", 0.1, marks=pytest.mark.slow)],
)
def test_half_precision_trains(policy, tolerance, tmp_path):
    images, labels = squares()
    expected = losses_of(small_model().fit(images, labels, verbose=0))
    keras.config.set_dtype_policy(policy)
    try:
        model = small_model()
        logs = losses_of(model.fit(images, labels, verbose=0))
        assert keras.backend.standardize_dtype(model(images).dtype) == "float32"
        model.save(tmp_path / "model.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    assert logs["loss"] == pytest.approx(expected["loss"], rel=tolerance)
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict_on_batch(images), model.predict_on_batch(images))


@pytest.mark.slow
@pytest.mark.backends("tensorflow", reason="tf.distribute")
def test_two_replicas_train_as_one(two_replicas):
    images, labels = squares(4)
    labels[2:, :, 8:] = 255  # the replicas know different numbers of pixels
    weights = np.float32([1, 0.5, 2, 1])

    def trained(model):
        fit = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0, "sample_weight": weights}
        return losses_of(model.fit(images, labels, **fit)), model.get_weights()

    one_logs, one_weights = trained(small_model())
    with two_replicas.scope():
        model = small_model(run_eagerly=False)
    two_logs, two_weights = trained(model)
    assert two_logs == pytest.approx(one_logs, rel=1e-4)
    for two, one in zip(two_weights, one_weights, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5)


@pytest.mark.slow
@pytest.mark.backends("tensorflow", "jax", reason="XLA")
def test_compiled_training_equals_the_eager_one():
    images, labels = squares()
    eager, compiled = (
        losses_of(small_model(**options).fit(images, labels, epochs=2, verbose=0, shuffle=False))
        for options in (
            {"run_eagerly": True, "jit_compile": False},
            {"run_eagerly": False, "jit_compile": True},
        )
    )
    assert compiled == pytest.approx(eager, rel=2e-4)


@pytest.mark.slow
@each_head
def test_it_learns_where_the_squares_are(head):
    images, labels = squares(8)
    model = small_model(head, run_eagerly=False)
    model.compile(keras.optimizers.AdamW(0.01), jit_compile=False)
    history = model.fit(images, labels, batch_size=4, epochs=30, verbose=0).history
    assert history["segmentation_loss"][-1] < 0.5 * history["segmentation_loss"][0]
    new_images, new_labels = squares(12)
    logs = model.evaluate(new_images[8:], new_labels[8:], verbose=0, return_dict=True)
    assert logs["pixel_accuracy"] > 1.02 * (new_labels[8:] == 0).mean() / (new_labels[8:] != 255).mean()


@pytest.mark.parametrize(("options", "message"), [({"classes": 0}, "classes"), ({"head": "unet"}, "head")])
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DeepLab.from_backbone(small_backbone(width=8), **{"classes": 2, **options})
