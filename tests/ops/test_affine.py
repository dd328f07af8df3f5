"""Affine warps of whole batches."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tests.gradients import compiled, gradients
from wsss.ops.affine import FILL_MODES, KINDS, Affine, affine_map, warp

# Arguments of one moderate transform of each kind, and of their whole range of sizes for properties.
TRANSFORMS = {
    "rotate": (0.3, 0, 0, 0, 0),
    "rescale_aspect": (1.3, 0, 0.3, 0.6, 1.1),
    "rescale": (0, 0, 0.7, 0.4, 1.25),
    "flip": (0, 1, 0, 0, 0),
    "translation": (0.05, -0.08, 0, 0, 0),
    "shear": (0.1, -0.2, 1.1, 0, 0),
}


def smooth_images(batch=2, height=40, width=56, channels=3):
    """Images that bilinear interpolation hardly blurs."""
    y, x = np.mgrid[:height, :width] / 20
    waves = [
        np.sin(y * (0.4 + 0.2 * i) + 0.3 * j) + np.cos(x * 0.5 + i * j)
        for i in range(batch)
        for j in range(channels)
    ]
    return np.stack(waves).reshape(batch, channels, height, width).transpose(0, 2, 3, 1).astype("float32")


def code_and_arguments(kind, batch=2):
    return np.full(batch, KINDS.index(kind), "int32"), np.tile(np.float32(TRANSFORMS[kind]), (batch, 1))


def to_numpy(x):
    return ops.convert_to_numpy(x)


@pytest.mark.parametrize("kind", KINDS)
def test_inverse_restores_the_image_away_from_borders(kind):
    images, (code, args) = smooth_images(), code_and_arguments(kind)
    affine = Affine()
    transformed = affine.apply_affine(images, code, args)
    restored = affine.apply_affine(transformed, code, affine.inverse_affine_code(code, args))
    middle = np.s_[:, 14:-14, 18:-18]
    assert np.abs(to_numpy(transformed) - images).max() > 0.05
    np.testing.assert_allclose(to_numpy(restored)[middle], images[middle], atol=4e-3)


@given(
    kind=st.sampled_from(KINDS),
    draws=st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5),
)
@settings(deadline=None, max_examples=40)
def test_inverse_arguments_give_the_inverse_matrix(kind, draws):
    affine = Affine()
    index = KINDS.index(kind)
    args = affine._lowest[index] + np.float32(draws) * (affine._highest[index] - affine._lowest[index])
    code = np.int32([index])
    inverse = affine.inverse_affine_code(code, args[None])
    forward, backward = (affine_map(code, ops.convert_to_tensor(a)) for a in (args[None], inverse))
    product = to_numpy(ops.matmul(forward.linear, backward.linear))[0]
    np.testing.assert_allclose(product, np.eye(2), atol=2e-5)
    np.testing.assert_array_equal(to_numpy(forward.anchor), to_numpy(backward.anchor))
    np.testing.assert_array_equal(to_numpy(forward.shift), -to_numpy(backward.shift))


@given(
    kind=st.sampled_from(KINDS),
    fill_mode=st.sampled_from(FILL_MODES),
    factor=st.floats(-2, 2, width=32),
)
@settings(deadline=None, max_examples=25)
def test_warp_is_linear_and_treats_channels_alike(kind, fill_mode, factor):
    images = smooth_images(height=12, width=17)
    affine = affine_map(*(ops.convert_to_tensor(x) for x in code_and_arguments(kind)))
    warped = to_numpy(warp(ops.convert_to_tensor(images), affine, fill_mode))
    scaled = to_numpy(warp(ops.convert_to_tensor(images[..., ::-1] * factor), affine, fill_mode))
    np.testing.assert_allclose(scaled, warped[..., ::-1] * factor, atol=2e-5)


@given(angle=st.floats(-1.5, 1.5), other=st.floats(-1.5, 1.5))
@settings(deadline=None, max_examples=20)
def test_rotations_add_up(angle, other):
    first, second, both = (
        affine_map(ops.zeros((1,), "int32"), ops.convert_to_tensor(np.float32([[a, 0, 0, 0, 0]])))
        for a in (angle, other, angle + other)
    )
    np.testing.assert_allclose(
        to_numpy(ops.matmul(second.linear, first.linear)), to_numpy(both.linear), atol=1e-5
    )


def test_quarter_turn_is_clockwise():
    image = np.arange(9, dtype="float32").reshape(1, 3, 3, 1)
    turned = Affine().apply_affine(image, np.int32([0]), np.float32([[np.pi / 2, 0, 0, 0, 0]]))
    np.testing.assert_allclose(to_numpy(turned)[0, ..., 0], np.rot90(image[0, ..., 0], -1), atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "expected"), [((0, 1), np.s_[:, ::-1]), ((1, 0), np.s_[::-1]), ((1, 1), np.s_[::-1, ::-1])]
)
def test_flip_is_exact(flags, expected):
    image = smooth_images(1, 7, 8)
    flipped = Affine().apply_affine(image, np.int32([3]), np.float32([[*flags, 0, 0, 0]]))
    np.testing.assert_array_equal(to_numpy(flipped)[0], image[0][expected])


def test_rescaling_keeps_its_fixed_point_and_doubles():
    image = np.zeros((1, 8, 8, 1), "float32")
    image[0, :2, :2] = 1
    larger = Affine().apply_affine(image, np.int32([2]), np.float32([[0, 0, 0, 0, 2]]))
    assert to_numpy(larger)[0, :3, :3, 0].min() == 1  # twice the size, from the top left corner
    assert to_numpy(larger)[0, 5:, 5:].max() == 0


# One row 0 1 2 3, moved by half its length to the right.
@pytest.mark.parametrize(
    ("fill_mode", "expected"),
    [
        ("constant", [0, 0, 0, 1]),
        ("nearest", [0, 0, 0, 1]),
        ("reflect", [1, 0, 0, 1]),
        ("wrap", [2, 3, 0, 1]),
    ],
)
def test_fill_mode_says_what_lies_beyond(fill_mode, expected):
    image = np.arange(4, dtype="float32").reshape(1, 1, 4, 1)
    moved = Affine(fill_mode=fill_mode).apply_affine(image, np.int32([4]), np.float32([[0, 0.5, 0, 0, 0]]))
    np.testing.assert_allclose(to_numpy(moved).ravel(), expected, atol=1e-6)


def test_constant_takes_a_value():
    affine = affine_map(*(ops.convert_to_tensor(x) for x in code_and_arguments("translation", 1)))
    ones = ops.ones((1, 20, 20, 1))
    np.testing.assert_allclose(to_numpy(warp(ones, affine, "constant", 1.0)), 1, atol=1e-6)


def test_each_image_gets_its_own_transform():
    images = smooth_images(len(KINDS))
    code = np.arange(len(KINDS), dtype="int32")
    args = np.float32(list(TRANSFORMS.values()))
    affine = Affine()
    together = to_numpy(affine.apply_affine(images, code, args))
    for i in range(len(KINDS)):
        alone = to_numpy(affine.apply_affine(images[i : i + 1], code[i], args[i]))
        np.testing.assert_allclose(together[i], alone[0], atol=1e-5)


def test_maps_of_another_size_follow_the_image():
    """A warp of the small map is the small map of the warp."""
    image, affine = smooth_images(1, 64, 96), Affine()
    code, args = code_and_arguments("rotate", 1)
    small_after = to_numpy(ops.average_pool(affine.apply_affine(image, code, args), 4, 4))
    small_before = to_numpy(affine.apply_affine(ops.average_pool(image, 4, 4), code, args))
    middle = np.s_[:, 4:-4, 6:-6]
    np.testing.assert_allclose(small_before[middle], small_after[middle], atol=1e-2)


def test_random_codes_follow_the_weights_and_the_domains():
    affine = Affine([1, 0, 3], rotate_domain=(0.1, 0.2), rescale_scale_domain=(0.7, 1.3), seed=0)
    code, args = (to_numpy(x) for x in affine.random_affine_code(4000))
    assert set(code) == {0, 2}
    assert abs((code == 2).mean() - 0.75) < 0.03
    angle, scale = args[code == 0, 0], args[code == 2, 4]
    assert angle.min() >= 0.1
    assert angle.max() <= 0.2
    assert scale.min() >= 0.7
    assert scale.max() <= 1.3
    assert len(np.unique(scale)) > 2900


def test_random_flip_always_flips():
    _, args = Affine([0, 0, 0, 1], seed=0).random_affine_code(100)
    assert (to_numpy(args)[:, :2].sum(axis=1) >= 1).all()
    _, args = Affine([0, 0, 0, 1], vertical_flip=False, seed=0).random_affine_code(100)
    np.testing.assert_array_equal(to_numpy(args)[:, :2], np.tile([0, 1], (100, 1)))


def test_one_code_applies_to_a_batch_of_any_size():
    affine = Affine(seed=3)
    code, args = affine.random_affine_code()
    assert tuple(code.shape) == ()
    images = np.repeat(smooth_images(1), 3, axis=0)
    transformed = to_numpy(affine.apply_affine(images, code, args))
    np.testing.assert_array_equal(transformed[0], transformed[2])
    assert tuple(affine.inverse_affine_code(code, args).shape) == tuple(args.shape)


def test_gradient_is_that_of_the_transposed_warp():
    images, weights = (
        smooth_images(2, 9, 11),
        np.random.default_rng(0).normal(size=(2, 9, 11, 3)).astype("float32"),
    )
    affine = affine_map(*(ops.convert_to_tensor(x) for x in code_and_arguments("shear")))

    def product(images):
        return ops.sum(warp(images, affine, "reflect") * weights)

    (gradient,) = gradients(product, images)
    np.testing.assert_allclose(
        (gradient * images).sum(), float(product(ops.convert_to_tensor(images))), rtol=1e-4
    )


def test_gradient_reaches_the_transform():
    images = smooth_images(1, 20, 20)

    def brightness(args):
        return ops.sum(warp(ops.convert_to_tensor(images), affine_map(ops.zeros((1,), "int32"), args)) ** 2)

    (gradient,) = gradients(brightness, np.float32([[0.1, 0, 0, 0, 0]]))
    assert np.isfinite(gradient).all()
    assert gradient[0, 0] != 0


@pytest.mark.backends("tensorflow", "jax", reason="XLA")
def test_compiled_warp_equals_the_eager_one():
    images, (code, args) = smooth_images(), code_and_arguments("rescale_aspect")
    affine = Affine(fill_mode="wrap")
    np.testing.assert_allclose(
        compiled(affine.apply_affine)(images, code, args),
        to_numpy(affine.apply_affine(images, code, args)),
        atol=1e-4,
    )


def test_precision_of_the_images_is_kept():
    images = ops.cast(smooth_images(), "float16")
    assert (
        keras.backend.standardize_dtype(Affine().apply_affine(images, *code_and_arguments("rotate")).dtype)
        == "float16"
    )


@pytest.mark.parametrize(
    "options",
    [
        {"fill_mode": "mirror"},
        {"affine_weights": [0, 0]},
        {"affine_weights": [-1]},
        {"affine_weights": [1] * 7},
    ],
)
def test_wrong_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Affine(**options)
