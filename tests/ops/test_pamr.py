"""Pixel-adaptive mask refinement against the authors' numbers and its own properties."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tests.golden import assert_close, golden_cases
from tests.gradients import compiled, gradients
from wsss.ops.pamr import refine_masks
from wsss.ops.resize import resize_bilinear


@golden_cases("k_pamr")
def test_refined_mask_equals_the_authors(case):
    refined = refine_masks(
        ops.convert_to_tensor(case.channels_last("x")),
        ops.convert_to_tensor(case.channels_last("mask")),
        int(case["num_iter"]),
        tuple(map(int, case["dilations"])),
    )
    assert_close(ops.convert_to_numpy(refined), case.channels_last("refined"), atol=2e-5)


def random_inputs(seed, size=(6, 7), classes=3):
    rng = np.random.default_rng(seed)
    image, mask = rng.random((2, *size, 3), "float32"), rng.random((2, *size, classes), "float32")
    return image, mask / mask.sum(axis=-1, keepdims=True)


def run(image, mask, iterations=2, dilations=(1, 2)):
    refined = refine_masks(*map(ops.convert_to_tensor, (image, mask)), iterations, dilations)
    return ops.convert_to_numpy(refined)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_refined_scores_stay_a_distribution_within_the_bounds_of_the_mask(seed):
    image, mask = random_inputs(seed)
    refined = run(image, mask)
    np.testing.assert_allclose(refined.sum(axis=-1), 1, atol=1e-5)
    assert refined.min() >= mask.min() - 1e-6
    assert refined.max() <= mask.max() + 1e-6


def test_images_and_classes_are_refined_alone():
    image, mask = random_inputs(0)
    permuted = run(image[::-1], mask[::-1][..., [2, 0, 1]])
    np.testing.assert_allclose(permuted, run(image, mask)[::-1][..., [2, 0, 1]], atol=1e-6)


def test_on_an_image_of_one_color_every_neighbor_weighs_the_same():
    image, mask = np.full((1, 5, 5, 3), 0.3, "float32"), random_inputs(1, (5, 5))[1][:1]
    refined = run(image, mask, iterations=1, dilations=(1,))
    around = np.pad(mask, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    expected = sum(around[:, y : y + 5, x : x + 5] for y in range(3) for x in range(3)) - mask
    np.testing.assert_allclose(refined, expected / 8, atol=1e-6)


def test_a_sharp_edge_of_the_image_stops_the_averaging():
    image = np.zeros((1, 8, 8, 3), "float32")
    image[:, :, 4:] = 1
    mask = np.random.default_rng(0).random((1, 8, 8, 1), "float32") * 0.1
    mask[:, :, 4:] += 0.9
    refined = run(image, mask, iterations=10, dilations=(1,))[0, ..., 0]
    assert refined[:, :4].max() < 0.3
    assert refined[:, 4:].min() > 0.7


def test_without_iterations_the_mask_is_only_resized():
    image, mask = random_inputs(0)
    resized = resize_bilinear(ops.convert_to_tensor(mask[:, :3, :4]), (6, 7), align_corners=True)
    np.testing.assert_allclose(run(image, mask[:, :3, :4], 0), ops.convert_to_numpy(resized), atol=1e-6)


def test_no_gradient_passes():
    image, mask = random_inputs(0)
    for gradient in gradients(lambda *maps: ops.sum(refine_masks(*maps, 1, (1,)) ** 2), image, mask):
        assert not gradient.any()


def test_compiled_refinement_equals_the_eager_one():
    image, mask = random_inputs(0)
    refine = compiled(lambda image, mask: refine_masks(image, mask, 2, (1, 2)))
    np.testing.assert_allclose(refine(image, mask), run(image, mask), atol=1e-5)


def test_half_precision_keeps_its_dtype_and_two_digits():
    image, mask = random_inputs(0)
    half = run(image.astype("float16"), mask.astype("float16"))
    assert half.dtype == np.float16
    np.testing.assert_allclose(half.astype("float32"), run(image, mask), atol=1e-2)
