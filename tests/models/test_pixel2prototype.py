"""Pixel-to-Prototype Contrast: its projection, its terms, its options."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.gradients import to_numpy
from tests.models.networks import CLASSES, images_and_labels, losses_of, tiny_model
from wsss.models.pixel2prototype import Pixel2Prototype
from wsss.ops.contrast import ContrastView, pixel_prototype_contrast
from wsss.ops.resize import resize_bilinear

TERMS = ("cross_prototype_loss", "cross_cam_loss", "intra_view_loss")


def test_terms_are_those_of_the_publication():
    images, labels = images_and_labels()
    sampled = tuple(np.random.default_rng(i).uniform(size=4 * 16) < 0.5 for i in range(2))
    coefficients = {"cp_contrast_coef": 0.2, "cc_contrast_coef": 0.3, "intra_contrast_coef": 0.4}
    options = {"prototype_confidence_rate": 0.25, "background_threshold": 0.3, "contrast_variant": "repaired"}
    model = tiny_model("pixel2prototype", **coefficients, **options)
    model.sampled_pixels = lambda: sampled
    views = []
    for view in (images, resize_bilinear(ops.convert_to_tensor(images), (10, 12), align_corners=True)):
        outputs = model.network(view)
        views.append(ContrastView(outputs["projection"], outputs["refined_cam"][..., 1:]))
    expected = pixel_prototype_contrast(
        *views,
        labels,
        sampled=sampled,
        grid=(4, 4),
        background_threshold=0.3,
        pixels_per_prototype=4,
        temperature=0.5,
        negative_ranks=(0, 2),  # 0.15 and 0.62 of 4 prototypes
        repaired=True,
    )
    logs = losses_of(model.fit(images, labels, batch_size=4, shuffle=False, verbose=0))
    for term, coefficient, value in zip(TERMS, coefficients.values(), expected, strict=True):
        assert logs[term] == pytest.approx(coefficient * float(to_numpy(value)), rel=1e-4), term


def test_default_ranges_are_the_published_numbers_for_voc():
    image = layers.Input((None, None, 3))
    model = Pixel2Prototype(image, layers.Conv2D(4, 1)(image), 20)
    assert [int(bound * 21) for bound in model.hard_prototype_range] == [3, 13]
    assert int(model.prototype_confidence_rate * 16 * 16) == 32


def test_given_projection_is_the_one_that_is_compared():
    image = layers.Input((None, None, 3))
    feature = layers.Conv2D(4, 3, padding="same")(image)
    projection = layers.Conv2D(5, 1, name="mine")(feature)
    model = Pixel2Prototype(image, feature, CLASSES, project_feature=projection)
    assert model.network.output["projection"].shape[-1] == 5
    default = Pixel2Prototype(image, feature, CLASSES)
    assert default.network.output["projection"].shape[-1] == 128
    assert ops.min(default.network(images_and_labels()[0])["projection"]) >= 0


def test_projection_learns_from_the_contrast_alone():
    images, labels = images_and_labels()
    off = dict.fromkeys(("cp_contrast_coef", "cc_contrast_coef", "intra_contrast_coef"), 0.0)
    for coefficients, learns in ((off, False), ({**off, "cp_contrast_coef": 1.0}, True)):
        model = tiny_model("pixel2prototype", **coefficients)
        kernel = model.network.get_layer("projection").kernel
        before = keras.ops.convert_to_numpy(kernel)
        model.fit(images, labels, verbose=0)
        assert (keras.ops.convert_to_numpy(kernel) != before).any() == learns


def test_classification_is_part_of_the_loss():
    images, labels = images_and_labels()
    model = tiny_model("pixel2prototype", ER_reg_coef=0.0, ECR_reg_coef=0.0, min_pooling_coef=0.0)
    losses = model.fit(images, labels, epochs=5, verbose=0).history["classification_loss"]
    assert losses[-1] < 0.99 * losses[0]


def test_affine_views_are_compared_pixel_by_pixel():
    """Under mirroring alone, a network of 1 x 1 convolutions sees the same pixels: both views agree."""
    image = layers.Input((None, None, 3))
    model = Pixel2Prototype(
        image,
        layers.Conv2D(4, 1, activation="relu")(image),
        CLASSES,
        affine_rescale=0.0,
        affine_flip=1.0,
        contrast_grid=(4, 4),
        seed=0,
    )
    model.compile("sgd", "binary_crossentropy", run_eagerly=True)
    logs = losses_of(model.fit(*images_and_labels(), batch_size=4, verbose=0))
    assert logs["cross_prototype_loss"] == pytest.approx(logs["cross_cam_loss"], rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"contrast_variant": "mended"},
        {"nce_tau": 0},
        {"background_threshold": 1.2},
        {"prototype_confidence_rate": 0},
        {"hard_prototype_range": (0.6, 0.1)},
        {"hard_pixel_range": (0.1, 1.2)},
    ],
)
def test_wrong_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        tiny_model("pixel2prototype", **options)
