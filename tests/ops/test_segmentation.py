"""Cross-entropy of pixels against values worked out by hand."""

import numpy as np
import pytest
from keras import ops

from wsss.ops.segmentation import pixel_cross_entropy


def values(pixels):
    return [ops.convert_to_numpy(part) for part in pixels]


def test_loss_is_the_negative_logarithm_of_the_softmax():
    logits = np.log(np.array([[[[1, 2, 5], [4, 2, 2]]]], "float32"))
    loss, known, correct = values(pixel_cross_entropy(logits, np.array([[[2, 1]]])))
    np.testing.assert_allclose(loss, [[[np.log(8 / 5), np.log(4)]]], rtol=1e-6)
    np.testing.assert_array_equal(known, [[[1, 1]]])
    np.testing.assert_array_equal(correct, [[[1, 0]]])


def test_unknown_pixels_have_no_loss_and_are_not_correct():
    logits = np.zeros((1, 1, 2, 3), "float32")
    loss, known, correct = values(pixel_cross_entropy(logits, np.array([[[255, 0]]], "uint8")))
    np.testing.assert_allclose(loss, [[[0, np.log(3)]]], rtol=1e-6)
    np.testing.assert_array_equal(known, [[[0, 1]]])
    np.testing.assert_array_equal(correct, [[[0, 1]]])


def test_classes_that_an_image_does_not_hold_take_no_part():
    logits = np.log(np.array([[[[1, 2, 5]]]], "float32"))
    loss, _, correct = values(pixel_cross_entropy(logits, np.array([[[1]]]), np.array([[1.0, 0.0]])))
    np.testing.assert_allclose(loss, [[[np.log(3 / 2)]]], rtol=1e-6)
    assert correct.all()


def test_saturated_logits_keep_a_finite_loss():
    logits = np.array([[[[1e4, -1e4]]]], "float32")
    loss, _, _ = values(pixel_cross_entropy(logits, np.array([[[1]]])))
    assert loss[0, 0, 0] == pytest.approx(2e4)
