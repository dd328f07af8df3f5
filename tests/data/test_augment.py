"""`wsss.data.augment`: draws, geometry and colors."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from tests.data.test_images import picture
from tests.golden import golden_cases
from wsss.data.augment import (
    AUGMENTATIONS,
    Augmentation,
    augment_image,
    crop_offset,
    jitter_colors,
    place_crop,
    resize_bicubic,
    resize_long_side,
    sample_augmentation,
)

UNCHANGED = np.array([1.0, 1.0, 1.0, 0.0], np.float32)


def draws(augmentation, image_size=32, count=400):
    seeds = tf.stack([tf.range(count), tf.zeros(count, tf.int32)], 1)
    return tf.vectorized_map(lambda seed: sample_augmentation(augmentation, image_size, seed), seeds)


def test_the_published_ranges_are_drawn_with_both_ends():
    drawn = tf.map_fn(
        lambda seed: sample_augmentation(AUGMENTATIONS["published"], 7, seed).long_side,
        tf.stack([tf.range(300), tf.ones(300, tf.int32)], 1),
    )
    assert sorted(set(drawn.numpy())) == [7, 8, 9, 10, 11, 12]  # 448..768 for a crop of 448


def test_factors_flips_and_orders_cover_their_ranges():
    drawn = tf.function(draws, autograph=False)(AUGMENTATIONS["published"])
    factors = drawn.factors.numpy()
    for column, (low, high) in enumerate([(0.7, 1.3), (0.7, 1.3), (0.7, 1.3), (-0.1, 0.1)]):
        values = factors[:, column]
        assert low <= values.min() < low + 0.01 * (high - low) * 2
        assert high - 0.01 * (high - low) * 2 < values.max() <= high
    assert 0.4 < drawn.flip.numpy().mean() < 0.6
    assert len({tuple(order) for order in drawn.order.numpy()}) == 24
    assert (np.sort(drawn.order.numpy(), axis=1) == np.arange(4)).all()


def test_the_same_seed_draws_the_same():
    first, again = (sample_augmentation(AUGMENTATIONS["published"], 448, (3, 4)) for _ in range(2))
    other = sample_augmentation(AUGMENTATIONS["published"], 448, (3, 5))
    for one, two in zip(first, again):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.factors, other.factors)


def test_no_augmentation_fits_the_image_into_the_square():
    image = np.full((20, 40, 3), 255, np.uint8)
    parameters = sample_augmentation(AUGMENTATIONS["none"], 16, (0, 0))
    result = augment_image(image, parameters, 16, (0.25, 0.5, 0.75)).numpy()
    np.testing.assert_array_equal(result[4:12], 1.0)
    np.testing.assert_array_equal(result[:4], np.broadcast_to([0.25, 0.5, 0.75], (4, 16, 3)))
    np.testing.assert_array_equal(result[12:], np.broadcast_to([0.25, 0.5, 0.75], (4, 16, 3)))


@pytest.mark.parametrize(("size", "side"), [((20, 33), 13), ((33, 20), 80), ((375, 500), 448), ((1, 50), 7)])
def test_resizing_equals_pillow_to_a_grey_level(size, side):
    overshooting = np.where(np.asarray(picture(*size)) > 128, 255, 30).astype(np.uint8)
    image = Image.fromarray(overshooting)
    height, width = (max(1, round(length * side / max(size))) for length in size)
    expected = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.int32)
    result = resize_long_side(np.asarray(image), side).numpy().astype(np.int32)
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 1


def test_each_offset_of_a_crop_is_equally_likely():
    fractions = (np.arange(600) + 0.5).astype(np.float32) / 600
    for length, crop in ((12, 7), (7, 12)):
        offsets = [int(crop_offset(length, crop, fraction)) for fraction in fractions]
        assert np.bincount(offsets).tolist() == [100] * 6
    assert int(crop_offset(9, 9, np.float32(0.999))) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_crop_is_a_window_or_the_image_on_a_canvas(height, width, crop, data):
    image = np.random.default_rng(0).uniform(size=(height, width, 2)).astype(np.float32)
    y = data.draw(st.integers(0, abs(height - crop)))
    x = data.draw(st.integers(0, abs(width - crop)))
    pad = np.array([0.25, 0.5], np.float32)
    canvas = np.broadcast_to(pad, (crop + 2 * height, crop + 2 * width, 2)).copy()
    y0 = height + (0 if height > crop else y)  # where the image lies on a canvas that is large enough
    x0 = width + (0 if width > crop else x)
    canvas[y0 : y0 + height, x0 : x0 + width] = image
    begin_y = height + (y if height > crop else 0)
    begin_x = width + (x if width > crop else 0)
    expected = canvas[begin_y : begin_y + crop, begin_x : begin_x + crop]
    np.testing.assert_array_equal(place_crop(image, crop, (y, x), pad), expected)


@pytest.mark.parametrize(
    ("index", "enhance"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
@pytest.mark.parametrize("factor", [0.7, 1.25])
def test_color_mixtures_equal_pillow_to_two_grey_levels(index, enhance, factor):
    image = picture(20, 30)
    factors = np.array(UNCHANGED)
    factors[index] = factor
    expected = np.asarray(enhance(image).enhance(factor), np.float32)
    result = jitter_colors(np.asarray(image, np.float32) / 255, factors, tf.range(4)).numpy() * 255
    assert np.abs(result - expected).max() < 2


def test_hue_turns_the_color_circle():
    red = np.zeros((1, 1, 3), np.float32)
    red[..., 0] = 1
    green = jitter_colors(red, tf.constant([1.0, 1.0, 1.0, 1 / 3]), tf.range(4))
    np.testing.assert_allclose(green, [[[0, 1, 0]]], atol=1e-6)


def test_the_order_of_the_color_operations_matters_and_is_kept():
    image = np.asarray(picture(8, 8), np.float32) / 255
    factors = tf.constant([1.3, 0.7, 1.3, 0.1])
    one = image
    for index in (2, 0, 3, 1):
        single = np.array(UNCHANGED)
        single[index] = factors[index]
        one = jitter_colors(one, single, tf.range(4))
    np.testing.assert_allclose(jitter_colors(image, factors, tf.constant([2, 0, 3, 1])), one, atol=1e-6)
    assert np.abs(jitter_colors(image, factors, tf.constant([1, 3, 0, 2])) - one).max() > 0.01


def test_unchanged_colors_are_the_same_bits():
    image = np.asarray(picture(8, 8), np.float32) / 255
    np.testing.assert_array_equal(jitter_colors(image, UNCHANGED, tf.range(4)), image)


@pytest.mark.parametrize(
    "wrong",
    [{"long_side": (2, 1)}, {"long_side": (0, 1)}, {"flip": 1.5}, {"hue": 0.6}, {"contrast": -0.1}],
)
def test_ranges_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augmentation(**wrong)


def test_an_augmentation_survives_json():
    augmentation = AUGMENTATIONS["light"]
    assert Augmentation(**json.loads(json.dumps(dataclasses.asdict(augmentation)))) == augmentation


MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def within_a_grey_level(result, expected):
    assert result.shape == expected.shape
    assert np.abs(result.numpy().astype(np.int32) - expected.astype(np.int32)).max() <= 1


@golden_cases("h_aug")
def test_the_authors_resize_is_met_to_a_grey_level(case):
    within_a_grey_level(resize_long_side(case["image"], case["target_long"]), case["resized_long"])
    for key in case.keys:
        if key.startswith("pil_bicubic_x"):
            within_a_grey_level(resize_bicubic(case["image"], case[key].shape[:2]), case[key])


@golden_cases("h_aug")
def test_the_authors_crop_is_met_exactly(case):
    crop = int(case["crop"])
    (range_x, x), (range_y, y) = case["randrange_n_and_value"]
    height, width = case["resized_long"].shape[:2]
    for length, values, value in ((height, range_y, y), (width, range_x, x)):
        assert values == abs(length - crop) + 1
        assert int(crop_offset(length, crop, np.float32((value + 0.5) / values))) == value
    normalized = (case["resized_long"] / np.float32(255) - MEAN) / DEVIATION
    np.testing.assert_allclose(normalized, case["normalised"], atol=1e-6)
    # Padded with 0 after normalizing, as the authors do, and before it with the mean color, as we do.
    after = place_crop(case["normalised"], crop, (y, x), (0.0, 0.0, 0.0))
    np.testing.assert_array_equal(after, case["cropped"])
    before = place_crop(case["resized_long"] / np.float32(255), crop, (y, x), MEAN)
    np.testing.assert_allclose((before - MEAN) / DEVIATION, case["cropped"], atol=1e-6)
