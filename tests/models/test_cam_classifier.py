"""The classifier below SEAM: its loss from logits, its files, and what it does not carry."""

import keras
import numpy as np
import pytest
from keras import layers

import wsss.models
from tests.gradients import loss_gradients, to_numpy
from tests.models.networks import ALWAYS_COMPILED, CLASSES, images_and_labels, losses_of, tiny_model
from wsss.backbones.tiny import small_backbone
from wsss.models.cam_classifier import CamClassifier, loss_from_logits
from wsss.models.pixel2prototype import Pixel2Prototype
from wsss.models.seam import SEAM
from wsss.models.views import AffineView, RescaledView


def classifier(**options):
    """A classifier on three constant maps, whose logits are the kernel of its only layer."""
    keras.utils.set_random_seed(0)
    image = layers.Input((None, None, 1))
    return CamClassifier(image, image, CLASSES, **options)


def with_logits(model, logits):
    model.network.get_layer("cam_head").set_weights([np.float32(logits).reshape(1, 1, 1, -1)])
    return np.ones((1, 2, 2, 1), "float32")


@pytest.mark.parametrize("loss", ["binary_crossentropy", "bce", "BinaryCrossentropy"])
def test_a_saturated_score_still_has_a_gradient(loss):
    model = classifier()
    model.compile("sgd", loss)
    images = with_logits(model, [40, -40, 0])
    scores = model.predict_on_batch(images)
    assert scores[0, 0] == 1  # probabilities outside, and saturated
    (gradient,) = loss_gradients(model, images, np.float32([[0, 1, 1]]))
    np.testing.assert_allclose(np.ravel(gradient), [1 / 3, -1 / 3, -0.5 / 3], rtol=1e-5)


def test_a_saturated_softmax_still_has_a_gradient():
    model = classifier(classification_activation="softmax")
    model.compile("sgd", keras.losses.CategoricalCrossentropy())
    images = with_logits(model, [40, -40, 0])
    (gradient,) = loss_gradients(model, images, np.float32([[0, 1, 0]]))
    np.testing.assert_allclose(np.ravel(gradient), [1, -1, 0], atol=1e-5)


def test_seams_terms_leave_the_saturated_score_its_gradient():
    image = layers.Input((None, None, 1))
    model = SEAM(image, image, CLASSES, min_pooling_rate=0.0, ER_reg_coef=0.0, ECR_reg_coef=0.0, seed=1)
    model.compile("sgd", "binary_crossentropy")
    images = with_logits(model, [40, -40, 0])
    gradient = loss_gradients(model, images, np.float32([[0, 1, 1]]))[0]
    np.testing.assert_allclose(np.ravel(gradient), [1 / 3, -1 / 3, -0.5 / 3], rtol=1e-5)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_moderate_logits_give_the_loss_of_the_scores(activation):
    losses = {"sigmoid": keras.losses.BinaryCrossentropy, "softmax": keras.losses.CategoricalCrossentropy}
    loss = losses[activation](label_smoothing=0.1)
    model = classifier(classification_activation=activation)
    model.compile("sgd", loss)
    images = with_logits(model, [1, -2, 0.5])
    labels = np.float32([[0, 1, 0]])
    expected = float(loss(labels, model.predict_on_batch(images)))
    logs = losses_of(model.fit(images, labels, verbose=0))
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    assert logs["classification_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "activation"),
    [
        ("mse", "sigmoid"),
        (keras.losses.BinaryFocalCrossentropy(), "sigmoid"),
        (keras.losses.BinaryCrossentropy(from_logits=True), "sigmoid"),
        ("binary_crossentropy", "softmax"),
        ("binary_crossentropy", "linear"),
        (lambda y_true, y_pred: keras.ops.mean(y_pred), "sigmoid"),
        (None, "sigmoid"),
    ],
)
def test_other_losses_have_no_form_on_logits(loss, activation):
    assert loss_from_logits(loss, activation) is None


def test_any_other_loss_sees_the_scores():
    model = classifier()
    seen = []
    model.compile("sgd", lambda y, scores: seen.append(to_numpy(scores)) or scores[:, 0], run_eagerly=True)
    images = with_logits(model, [0, 40, -40])
    assert losses_of(model.fit(images, np.zeros((1, 3)), verbose=0))["loss"] == pytest.approx(0.5)
    np.testing.assert_allclose(seen[-1], [[0.5, 1, 0]], atol=1e-6)


def test_weights_of_images_and_of_the_loss_scale_it():
    images, labels = images_and_labels(4)

    def loss(loss_weights=None, **weights):
        model = tiny_model("classifier")
        model.compile("sgd", "binary_crossentropy", loss_weights, run_eagerly=not ALWAYS_COMPILED)
        return losses_of(model.fit(images, labels, verbose=0, **weights))["classification_loss"]

    plain = loss()
    assert loss(loss_weights=3.0) == pytest.approx(3 * plain, rel=1e-5)
    assert loss(sample_weight=np.full(4, 2.0, "float32")) == pytest.approx(2 * plain, rel=1e-5)
    half = loss(sample_weight=np.float32([1, 1, 0, 0]))
    alone = tiny_model("classifier")
    alone = losses_of(alone.fit(images[:2], labels[:2], verbose=0))["classification_loss"]
    assert half == pytest.approx(alone / 2, rel=1e-5)


def test_weights_of_classes_scale_their_images():
    images, labels = images_and_labels(4)
    labels = np.eye(CLASSES, dtype="float32")[[0, 1, 0, 2]]
    weighted, by_hand = (
        losses_of(tiny_model("classifier").fit(images, labels, verbose=0, **weights))["loss"]
        for weights in (
            {"class_weight": {0: 0.0, 1: 2.0, 2: 1.0}},
            {"sample_weight": np.float32([0, 2, 0, 1])},
        )
    )
    assert weighted == pytest.approx(by_hand, rel=1e-5)


def test_classifier_has_no_part_of_seam():
    model = CamClassifier.from_backbone(small_backbone(width=8), CLASSES)
    assert issubclass(SEAM, CamClassifier)
    assert not isinstance(model, SEAM)
    assert not hasattr(model, "refined_cam")
    assert not [layer for layer in model.network.layers if "correlation" in layer.name]


def test_the_old_name_is_the_same_class():
    assert wsss.models.Classifier is CamClassifier
    assert keras.saving.get_registered_object("wsss>Classifier") is CamClassifier


def test_a_classifier_of_version_0_1_0_opens():
    """Its configuration was SEAM's, its network gave refined maps and no logits."""
    images, labels = images_and_labels()
    seam = tiny_model()
    seam.network.get_layer("correlation_embedding").trainable = False  # as all that the loss did not teach
    config = seam.get_config()
    outputs = {name: seam.network.output[name] for name in ("cam", "refined_cam", "scores")}
    old_network = keras.Model(seam.network.input, outputs, name="network")
    config["model"] = keras.saving.serialize_keras_object(old_network)
    model = CamClassifier.from_config(config)
    model.network.set_weights(old_network.get_weights())
    np.testing.assert_array_equal(model.predict_on_batch(images), seam.predict_on_batch(images))
    assert model.upsample_scores
    model.compile("sgd", "binary_crossentropy")
    assert set(losses_of(model.fit(images, labels, verbose=0))) == {"loss", "classification_loss"}


@pytest.mark.parametrize("view", [RescaledView(0.25), RescaledView(size=(9, 11)), AffineView(rotate=1.0)])
@pytest.mark.parametrize("model_class", [SEAM, Pixel2Prototype])
def test_views_become_options_of_the_constructor(model_class, view):
    model = model_class.from_backbone(small_backbone(width=8), CLASSES, view=view, ER_reg_coef=0.5)
    config = model.get_config()
    assert {name: config[name] for name in view.options()} == view.options()
    assert config["ER_reg_coef"] == 0.5
    assert "correlation_low" in [layer.name for layer in model.network.layers]


def test_a_score_offset_is_part_of_the_scores_and_not_of_the_maps(tmp_path):
    offset = [1.0, -2.0, 0.5]
    model, plain = classifier(score_offset=offset), classifier()
    images = with_logits(model, [0.5, 1, 2])
    model.save(tmp_path / "model.keras")
    for made in (model, CamClassifier.load(tmp_path / "model.keras")):
        np.testing.assert_allclose(made.cam.predict_on_batch(images)[0, 0, 0], [0.5, 1, 2])
        expected = 1 / (1 + np.exp([-1.5, 1.0, -2.5]))
        np.testing.assert_allclose(made.predict_on_batch(images)[0], expected, rtol=1e-6)
    assert model.get_config()["score_offset"] == offset
    assert [weight.shape for weight in model.weights] == [weight.shape for weight in plain.weights]


def test_a_score_offset_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"`score_offset` must hold one number a class, 3\. Received: 2"):
        classifier(score_offset=[0.0, 1.0])
