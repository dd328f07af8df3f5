"""SEAM's loss terms against the authors' numbers and their own properties."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tests.golden import assert_close, golden_cases
from tests.gradients import compiled, gradients, to_numpy
from wsss.layers.heads import ImageScores
from wsss.models.cam_classifier import loss_from_logits
from wsss.ops.cam import add_background, mask_classes, max_normalize
from wsss.ops.losses import (
    View,
    cross_equivariance_loss,
    equivariance_loss,
    equivariant_regularization,
    min_pooling_loss,
)
from wsss.ops.resize import resize_bilinear

MAPS = ("cam1", "cam_rv1", "cam2", "cam_rv2")
properties = settings(deadline=None, max_examples=10)
seeds = st.integers(0, 2**32 - 2)


def seam_terms(cam1, refined1, cam2, refined2, labels):
    """The authors' loss from their 21-channel maps (here channels last), term by term."""

    def to_other(maps):
        return resize_bilinear(maps, cam2.shape[1:3], align_corners=True)

    view, other = View(cam1[..., 1:], refined1), View(cam2[..., 1:], refined2)
    regularization = equivariant_regularization(view, other, labels, to_other)
    classification = loss_from_logits("binary_crossentropy", "sigmoid")
    cls1, cls2 = (classification(labels, ImageScores()([maps.cam, maps.cam])) for maps in (view, other))
    min1 = ops.mean(min_pooling_loss(refined1[..., 1:], labels))
    min2 = ops.mean(min_pooling_loss(refined2[..., 1:], labels))
    er, ecr = (ops.mean(term) for term in regularization)
    cls = (cls1 + cls2 + min1 + min2) / 2
    return {
        "loss_cls1": cls1,
        "loss_cls2": cls2,
        "loss_rvmin1": min1,
        "loss_rvmin2": min2,
        "loss_er": er,
        "loss_ecr": ecr,
        "loss_cls": cls,
        "loss": cls + er + ecr,
    }


def one_way_terms(cam1, refined1, cam2, refined2, labels):
    """The two directions of cross-view equivariance, from the building blocks."""
    labels21 = ops.pad(labels, ((0, 0), (1, 0)), constant_values=1)
    size = cam2.shape[1:3]
    down = lambda maps: resize_bilinear(maps, size, align_corners=True)  # noqa: E731
    return {
        "loss_ecr1": ops.mean(
            cross_equivariance_loss(
                mask_classes(max_normalize(cam2[..., 1:]), labels),
                mask_classes(down(max_normalize(refined1)), labels21),
            )
        ),
        "loss_ecr2": ops.mean(
            cross_equivariance_loss(
                mask_classes(down(max_normalize(cam1[..., 1:])), labels),
                mask_classes(max_normalize(refined2), labels21),
            )
        ),
    }


def seam_inputs(case):
    return [*map(case.channels_last, MAPS), case["label20"]]


@golden_cases("a_seam_losses")
def test_every_loss_term_equals_the_authors(case):
    inputs = [ops.convert_to_tensor(array) for array in seam_inputs(case)]
    terms = to_numpy(seam_terms(*inputs) | one_way_terms(*inputs))
    for name, value in terms.items():
        assert_close(value, case[name], rtol=1e-6, atol=1e-6)
        assert_close(value, case[name + "_f64"], rtol=1e-6, atol=1e-6)


@golden_cases("a_seam_losses")
def test_gradients_of_the_whole_loss_equal_the_authors(case):
    *maps, labels = seam_inputs(case)
    found = gradients(lambda *maps: seam_terms(*maps, labels)["loss"], *maps)
    for name, gradient in zip(MAPS, found):
        assert_close(gradient, case.channels_last(f"grad_{name}"), rtol=1e-5)


@golden_cases("a_seam_losses")
def test_gradients_of_single_terms_equal_the_authors(case):
    *maps, labels = seam_inputs(case)
    recorded = [key for key in case.keys if key.startswith("d_")]
    if not recorded:
        pytest.skip("no gradients of single terms in this file")
    for term in sorted({key.split("_d_")[0].removeprefix("d_") for key in recorded}):
        found = gradients(lambda *maps, term=term: seam_terms(*maps, labels)[term], *maps)
        for name, gradient in zip(MAPS, found):
            if f"d_{term}_d_{name}" in case:
                assert_close(gradient, case.channels_last(f"d_{term}_d_{name}"), rtol=1e-5)


@golden_cases("a_pieces")
def test_min_pooling_equals_the_authors(case):
    foreground = ops.convert_to_tensor(case.channels_last("x")[..., 1:])
    assert_close(ops.mean(min_pooling_loss(foreground)), case["min_pool_x"], rtol=1e-6, atol=1e-6)
    pooled = ops.mean(min_pooling_loss(ops.abs(foreground)))
    assert_close(pooled, case["min_pool_absx"], rtol=1e-6, atol=1e-6)


def random_views(seed, background=True, classes=4):
    """Two views, the second half as large, and labels with present and absent classes."""
    rng = np.random.default_rng(seed)
    channels = classes + background
    views = [
        View(
            rng.normal(size=(2, size, size, classes)).astype("float32"),
            rng.normal(size=(2, size, size, channels)).astype("float32"),
        )
        for size in (6, 3)
    ]
    labels = np.array([[1, 0, 1, 0], [0, 1, 0, 0]], "float32")
    return *views, labels


def halve(maps):
    return resize_bilinear(maps, (3, 3), align_corners=True)


def regularize(view, other, labels):
    view, other = (View(*map(ops.convert_to_tensor, maps)) for maps in (view, other))
    return to_numpy(equivariant_regularization(view, other, ops.convert_to_tensor(labels), halve))


def summed(view, other, labels):
    return sum(map(ops.sum, equivariant_regularization(view, other, labels, halve)))


@properties
@given(seed=seeds)
def test_permuted_images_permute_the_regularization(seed):
    view, other, labels = random_views(seed)
    terms = regularize(view, other, labels)
    swapped = regularize(View(*(m[::-1] for m in view)), View(*(m[::-1] for m in other)), labels[::-1])
    for term, permuted in zip(terms, swapped):
        np.testing.assert_allclose(permuted, term[::-1], rtol=1e-5)


@properties
@given(seed=seeds)
def test_order_of_the_classes_does_not_matter(seed):
    view, other, labels = random_views(seed, background=False)
    order = np.random.default_rng(seed).permutation(4)
    terms = regularize(view, other, labels)
    permuted = [View(*(maps[..., order] for maps in pair)) for pair in (view, other)]
    for term, same in zip(terms, regularize(*permuted, labels[:, order])):
        np.testing.assert_allclose(same, term, rtol=1e-5)
    lowest = min_pooling_loss(ops.convert_to_tensor(view.cam), ops.convert_to_tensor(labels))
    again = min_pooling_loss(
        ops.convert_to_tensor(view.cam[..., order]), ops.convert_to_tensor(labels[:, order])
    )
    np.testing.assert_allclose(ops.convert_to_numpy(lowest), ops.convert_to_numpy(again), rtol=1e-6)


@properties
@given(seed=seeds)
def test_maps_of_absent_classes_have_no_part_in_the_loss(seed):
    view, other, labels = random_views(seed)
    noise = np.random.default_rng(seed + 1).normal(size=view.cam.shape).astype("float32")
    changed = View(view.cam + noise * (1 - labels)[:, None, None, :], view.refined_cam)
    for term, same in zip(regularize(view, other, labels), regularize(changed, other, labels)):
        np.testing.assert_array_equal(same, term)
    absent = np.broadcast_to(labels[:, None, None, :] == 0, view.cam.shape)
    (gradient,) = gradients(lambda cam: summed(View(cam, view.refined_cam), other, labels), view.cam)
    assert not gradient[absent].any()
    (gradient,) = gradients(lambda cam: ops.sum(min_pooling_loss(cam, labels)), view.cam)
    assert not gradient[absent].any()


def test_cross_equivariance_teaches_the_refined_maps_alone():
    _, other, _ = random_views(0)
    cam, refined_cam = np.abs(other.cam), other.refined_cam
    to_cam, to_refined = gradients(
        lambda cam, refined_cam: ops.sum(cross_equivariance_loss(cam, refined_cam)), cam, refined_cam
    )
    assert not to_cam.any()
    assert to_refined.any()


def test_foreground_without_background_channel_gets_one_minus_its_maximum():
    view, other, labels = random_views(0, background=False)
    found = regularize(view, other, labels).cross_equivariance
    labels_ = ops.convert_to_tensor(labels)

    def normalize(maps, transform=lambda maps: maps):
        return mask_classes(transform(max_normalize(ops.convert_to_tensor(maps))), labels_)

    expected = cross_equivariance_loss(
        normalize(other.cam), add_background(normalize(view.refined_cam, halve))
    ) + cross_equivariance_loss(normalize(view.cam, halve), add_background(normalize(other.refined_cam)))
    np.testing.assert_allclose(found, ops.convert_to_numpy(expected), rtol=1e-6)


def test_views_that_agree_lose_nothing():
    view, _, labels = random_views(0)
    same = equivariant_regularization(
        *(View(ops.convert_to_tensor(view.cam), ops.convert_to_tensor(view.refined_cam)),) * 2,
        ops.convert_to_tensor(labels),
        lambda maps: maps,
    )
    assert not ops.convert_to_numpy(same.equivariance).any()


def test_min_pooling_by_hand():
    # Strongest classes 1, 2, -3, 4: the lowest half are -3 (counted 0) and 1.
    cam = np.array([[1, 0], [0, 2], [-3, -5], [4, 4]], "float32").reshape(1, 2, 2, 2)
    loss = min_pooling_loss(ops.convert_to_tensor(cam), rate=0.5)
    assert float(ops.convert_to_numpy(loss)[0]) == pytest.approx(0.5)


def test_cross_equivariance_by_hand():
    # One pixel: target is (background 0.4, strongest 0.6, 0); differences 0.1, 0.2, 0.3, the largest counts.
    cam = np.array([0.6, 0.5], "float32").reshape(1, 1, 1, 2)
    refined = np.array([0.5, 0.4, 0.3], "float32").reshape(1, 1, 1, 3)
    loss = cross_equivariance_loss(ops.convert_to_tensor(cam), ops.convert_to_tensor(refined), rate=0.34)
    assert float(ops.convert_to_numpy(loss)[0]) == pytest.approx(0.3)


def test_equivariance_is_the_mean_absolute_difference():
    cam, other = np.zeros((1, 2, 2, 1), "float32"), np.full((1, 2, 2, 1), -0.5, "float32")
    loss = equivariance_loss(ops.convert_to_tensor(cam), ops.convert_to_tensor(other))
    np.testing.assert_allclose(ops.convert_to_numpy(loss), [0.5])


def test_compiled_terms_equal_the_eager_ones():
    (cam, refined_cam), (other_cam, other_refined_cam), labels = random_views(0)

    def terms(*maps):
        pair = View(*maps[:2]), View(*maps[2:4])
        return (*equivariant_regularization(*pair, maps[4], halve), min_pooling_loss(maps[0], maps[4]))

    arrays = cam, refined_cam, other_cam, other_refined_cam, labels
    for found, expected in zip(compiled(terms)(*arrays), terms(*map(ops.convert_to_tensor, arrays))):
        np.testing.assert_allclose(found, ops.convert_to_numpy(expected), rtol=1e-5)


def test_sizes_known_only_at_run_time_give_the_same_loss():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("shapes are always known on this backend")
    import tensorflow as tf

    view, other, labels = random_views(0)
    specs = [tf.TensorSpec((None, None, None, maps.shape[-1])) for maps in (*view, *other)]

    @tf.function(input_signature=[*specs, tf.TensorSpec((None, 4))])
    def terms(cam, refined_cam, other_cam, other_refined_cam, labels):
        regularization = equivariant_regularization(
            View(cam, refined_cam), View(other_cam, other_refined_cam), labels, halve
        )
        return (*regularization, min_pooling_loss(cam, labels))

    expected = regularize(view, other, labels)
    *found, lowest = terms(*view, *other, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(lowest, min_pooling_loss(tf.constant(view.cam), labels), rtol=1e-6)


def test_half_precision_maps_keep_three_digits_of_the_loss():
    view, other, labels = random_views(0)
    half = [View(*(maps.astype("float16") for maps in pair)) for pair in (view, other)]
    for term, rounded in zip(regularize(view, other, labels), regularize(*half, labels)):
        assert rounded.dtype == np.float32
        np.testing.assert_allclose(rounded, term, rtol=5e-3)
