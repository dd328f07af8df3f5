"""SEAM's loss terms against the authors' numbers and their own properties."""

import pytest
from keras import ops

from tests.golden import assert_close, golden_cases
from tests.gradients import gradients, to_numpy
from wsss.ops.cam import image_scores, mask_classes, max_normalize
from wsss.ops.losses import (
    View,
    classification_loss,
    cross_equivariance_loss,
    equivariant_regularization,
    min_pooling_loss,
)
from wsss.ops.resize import resize_bilinear

MAPS = ("cam1", "cam_rv1", "cam2", "cam_rv2")


def seam_terms(cam1, refined1, cam2, refined2, labels):
    """The authors' loss from their 21-channel maps (here channels last), term by term."""

    def to_other(maps):
        return resize_bilinear(maps, cam2.shape[1:3], align_corners=True)

    view, other = View(cam1[..., 1:], refined1), View(cam2[..., 1:], refined2)
    regularization = equivariant_regularization(view, other, labels, to_other)
    cls1 = ops.mean(classification_loss(image_scores(view.cam), labels))
    cls2 = ops.mean(classification_loss(image_scores(other.cam), labels))
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
