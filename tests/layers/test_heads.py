"""Class scores of an image."""

import numpy as np
from keras import ops

from tests.gradients import to_numpy
from wsss.layers.heads import ImageScores
from wsss.ops.resize import resize_bilinear


def test_upsampled_scores_need_no_upsampled_maps():
    cam = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype("float32")
    image = np.zeros((2, 33, 47, 1), "float32")
    upsampled = resize_bilinear(ops.convert_to_tensor(cam), (33, 47), align_corners=True)
    actual = ImageScores(upsample=True)([cam, image])
    np.testing.assert_allclose(to_numpy(actual), to_numpy(upsampled).mean(axis=(1, 2)), atol=1e-6)


def test_an_offset_is_added_to_the_scores_and_kept_in_the_configuration():
    cam = np.full((1, 2, 3, 2), 0.5, "float32")
    layer = ImageScores(offset=[-2, 1])
    for made in (layer, ImageScores.from_config(layer.get_config())):
        np.testing.assert_allclose(to_numpy(made([cam, cam])), [[-1.5, 1.5]])
