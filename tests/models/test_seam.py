"""SEAM: its parts, its views, its loss."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.gradients import gradients, to_numpy
from tests.models.networks import CLASSES, images_and_labels, losses_of, tiny_model
from wsss.layers.correlation import PixelCorrelation
from wsss.models.seam import SEAM, _visible
from wsss.ops.affine import Affine
from wsss.ops.losses import View, equivariant_regularization, min_pooling_loss
from wsss.ops.resize import resize_bilinear


def test_parts_are_models_on_the_same_weights():
    images, _ = images_and_labels()
    model = tiny_model()
    scores, cam = model.predict_on_batch(images), model.cam.predict_on_batch(images)
    np.testing.assert_array_equal(model.classifier.predict_on_batch(images), scores)
    assert cam.shape == model.refined_cam.predict_on_batch(images).shape == (4, 6, 7, CLASSES)
    head = model.network.get_layer("cam_head")
    head.set_weights([2 * head.get_weights()[0]])
    np.testing.assert_allclose(model.cam.predict_on_batch(images), 2 * cam, rtol=1e-6)


def test_scores_are_the_mean_of_the_maps():
    images, _ = images_and_labels()
    for view, upsample in (("affine", False), ("rescale", True)):
        model = tiny_model("seam_affine", view=view, classification_activation="linear")
        cam = model.cam(images)
        if upsample:
            cam = resize_bilinear(cam, images.shape[1:3], align_corners=True)
        np.testing.assert_allclose(model.predict_on_batch(images), to_numpy(cam).mean(axis=(1, 2)), atol=1e-6)


def test_softmax_of_one_class_is_a_sigmoid():
    image = layers.Input((8, 8, 3))
    model = SEAM(image, layers.Conv2D(4, 1)(image), 1, classification_activation="softmax")
    scores = model.predict_on_batch(images_and_labels(height=8, width=8)[0])
    assert len(np.unique(scores)) > 1


def test_extra_background_channel_is_never_read():
    images, labels = images_and_labels()
    model = tiny_model(cam_background=True)
    kernel = model.network.get_layer("cam_head").kernel
    assert kernel.shape[-1] == CLASSES + 1
    assert model.predict_on_batch(images).shape == labels.shape
    before = to_numpy(kernel)
    model.fit(images, labels, verbose=0)
    after = to_numpy(kernel)
    np.testing.assert_array_equal(after[..., 0], before[..., 0])
    assert (after[..., 1:] != before[..., 1:]).any()


def test_rescaled_view_gives_the_published_loss():
    images, labels = images_and_labels()
    model = tiny_model("seam_rescale", ER_reg_coef=0.7, ECR_reg_coef=0.3, min_pooling_coef=0.5)
    small = resize_bilinear(ops.convert_to_tensor(images), (7, 8), align_corners=True)  # 0.6 of 12 x 14
    scores, maps = [], []
    for view in (images, small):
        outputs = model.network(view)
        scores.append(outputs["scores"])
        parts = (outputs["cam"], outputs["refined_cam"])
        maps.append(View(*(resize_bilinear(part, view.shape[1:3], align_corners=True) for part in parts)))
    expected = equivariant_regularization(
        *maps, labels, lambda maps: resize_bilinear(maps, (7, 8), align_corners=True)
    )
    lowest = [to_numpy(min_pooling_loss(view.refined_cam[..., 1:], labels)) for view in maps]
    classification = [to_numpy(keras.losses.binary_crossentropy(labels, s)).mean() for s in scores]
    logs = losses_of(model.fit(images, labels, batch_size=4, verbose=0))
    assert logs["er_loss"] == pytest.approx(0.7 * to_numpy(expected.equivariance).mean(), rel=1e-5)
    assert logs["ecr_loss"] == pytest.approx(0.3 * to_numpy(expected.cross_equivariance).mean(), rel=1e-5)
    assert logs["min_pooling_loss"] == pytest.approx(0.5 * np.mean(lowest), rel=1e-5)
    assert logs["classification_loss"] == pytest.approx(np.mean(classification), rel=1e-5)


def test_mirrored_view_of_a_network_that_commutes_with_mirroring_costs_nothing():
    image = layers.Input((None, None, 3))
    options = {"affine_rescale": 0.0, "affine_flip": 1.0, "min_pooling_rate": 0.0, "ECR_pooling_rate": 1.0}
    model = SEAM(image, layers.Conv2D(4, 1)(image), CLASSES, **options)
    images, labels = images_and_labels()
    flipped = model._second_view(ops.convert_to_tensor(images))
    np.testing.assert_array_equal(to_numpy(flipped.images), images[:, :, ::-1])
    np.testing.assert_array_equal(to_numpy(flipped.to_first(flipped.images)), images)
    model.compile("sgd", "binary_crossentropy", run_eagerly=True)
    assert losses_of(model.fit(images, labels, verbose=0))["er_loss"] == pytest.approx(0, abs=1e-6)


def test_parts_that_only_one_view_shows_are_not_compared():
    code, args = np.int32([4]), np.float32([[0, 0.5, 0, 0, 0]])  # half of the image out of sight
    maps = View(ops.ones((1, 4, 6, 2)), ops.ones((1, 4, 6, 2)))
    visible = _visible(maps, lambda x: Affine(fill_mode="constant").apply_affine(x, code, args))
    for part in visible:
        np.testing.assert_array_equal(to_numpy(part)[0, 0, :, 0], [0, 0, 0, 1, 1, 1])


def test_zero_rate_switches_min_pooling_off():
    images, labels = images_and_labels()
    logs = losses_of(tiny_model(min_pooling_rate=0.0).fit(images, labels, verbose=0))
    assert logs["min_pooling_loss"] == 0
    assert logs["loss"] == pytest.approx(
        logs["classification_loss"] + logs["er_loss"] + logs["ecr_loss"], rel=1e-5
    )


def test_refinement_teaches_neither_the_maps_nor_the_backbone():
    images, _ = images_and_labels()
    cam = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype("float32")
    feature = np.random.default_rng(1).normal(size=(2, 5, 6, 4)).astype("float32")
    layer = PixelCorrelation()
    cam_gradient, feature_gradient = gradients(lambda c, f: ops.sum(layer([c, f]) ** 2), cam, feature)
    assert not cam_gradient.any()
    assert feature_gradient.any()
    model = tiny_model()
    embedded = model.network.get_layer("correlation_embedding")
    stopped = keras.Model(model.network.input, embedded.output)
    (gradient,) = gradients(lambda x: ops.sum(stopped(x) ** 2), images)
    assert not gradient.any()


@pytest.mark.parametrize(
    "options",
    [{"view": "shear"}, {"view_scale": 0.0}, {"min_pooling_rate": 1.5}, {"ECR_pooling_rate": 0.0}],
)
def test_wrong_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        tiny_model(**options)


def test_input_may_stand_in_a_list_but_must_be_one():
    image = layers.Input((8, 8, 3))
    feature = layers.Conv2D(4, 1)(image)
    assert SEAM([image], feature, CLASSES).predict_on_batch(np.zeros((2, 8, 8, 3))).shape == (2, CLASSES)
    with pytest.raises(ValueError, match="image_input"):
        SEAM([image, image], feature, CLASSES)


def test_weights_alone_ask_for_their_config(tmp_path):
    with pytest.raises(ValueError, match="get_config"):
        SEAM.load(str(tmp_path / "model.h5"))


def test_load_takes_keras_files_of_its_own_kind(tmp_path):
    model = tiny_model()
    model.optimizer.build(model.trainable_variables)  # or Keras warns of its missing state when it loads
    model.save(tmp_path / "model.keras")
    assert isinstance(SEAM.load(tmp_path / "model.keras"), SEAM)
    keras.Sequential([layers.Input((3,)), layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="Sequential"):
        SEAM.load(tmp_path / "other.keras")
