"""The layer of pixel correlation."""

import numpy as np
from keras import ops

from tests.gradients import to_numpy
from wsss.layers.correlation import PixelCorrelation, strongest_class
from wsss.ops.resize import resize_bilinear


def test_alike_pixels_share_the_mean_of_what_they_hold():
    cam = np.random.default_rng(2).uniform(0.1, 1, (1, 4, 5, 2)).astype("float32")
    refined = to_numpy(PixelCorrelation()([cam, np.ones((1, 4, 5, 3), "float32")]))
    strongest = cam / cam.max(axis=(1, 2), keepdims=True)
    background = 1 - strongest.max(axis=-1, keepdims=True)
    strongest = np.where(strongest == strongest.max(axis=-1, keepdims=True), strongest, 0)
    expected = np.concatenate([background, strongest], axis=-1).mean(axis=(1, 2))
    assert refined.shape == (1, 4, 5, 3)
    np.testing.assert_allclose(refined, np.broadcast_to(expected[:, None, None], refined.shape), atol=1e-4)


def test_positions_beyond_the_limit_are_compared_on_a_coarser_grid():
    rng = np.random.default_rng(0)
    cam, feature = (rng.uniform(size=(1, 12, 16, c)).astype("float32") for c in (2, 3))
    exact = to_numpy(PixelCorrelation(max_positions=192)([cam, feature]))
    np.testing.assert_array_equal(to_numpy(PixelCorrelation(max_positions=10**6)([cam, feature])), exact)
    coarse = to_numpy(PixelCorrelation(max_positions=48)([cam, feature]))
    assert coarse.shape == exact.shape
    small_feature = resize_bilinear(ops.convert_to_tensor(feature), (6, 8), align_corners=True)
    expected = PixelCorrelation()([cam, small_feature])
    expected = resize_bilinear(expected, (12, 16), align_corners=True)
    np.testing.assert_allclose(coarse, to_numpy(expected), atol=1e-6)


def test_maps_are_normalized_by_their_maximum_alone():
    cam = np.float32([[[[1.0], [2.0]]]])
    np.testing.assert_allclose(to_numpy(strongest_class(cam))[0, 0], [[0.5, 0.5], [0, 1]], atol=2e-5)
