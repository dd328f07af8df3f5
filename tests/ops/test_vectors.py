"""Vectors of length 1."""

import numpy as np
from keras import ops

from tests.gradients import gradients, to_numpy
from wsss.ops.vectors import unit_vectors


def test_lengths_worked_out_by_hand():
    np.testing.assert_allclose(to_numpy(unit_vectors(np.float32([[3, 4], [0, 0]]))), [[0.6, 0.8], [0, 0]])
    np.testing.assert_allclose(to_numpy(unit_vectors(np.float32([3, 4]), epsilon=5.0)), [0.3, 0.4])


def test_zero_vectors_have_gradient_zero():
    (gradient,) = gradients(lambda x: ops.sum(unit_vectors(x)), np.float32([[0, 0], [1, 1]]))
    np.testing.assert_array_equal(gradient[0], [0, 0])
    assert np.isfinite(gradient).all()
