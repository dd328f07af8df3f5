"""ResNet in torchvision's layout: dilation and options."""

import keras
import numpy as np
import pytest

from wsss.backbones.resnet import resnet


def values(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_computes_the_strided_network_at_more_positions(output_stride):
    image, _, *stages = resnet(width=0.1, output_stride=32)
    strided = keras.Model(image, stages[-1])
    dense = keras.Model(image, resnet(image, width=0.1, output_stride=output_stride)[-1])
    dense.set_weights(strided.get_weights())
    photograph = np.random.default_rng(0).uniform(size=(1, 96, 64, 3)).astype("float32")
    step = 32 // output_stride
    np.testing.assert_allclose(
        values(dense(photograph))[:, ::step, ::step], values(strided(photograph)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("options", [{"depth": 18}, {"output_stride": 4}], ids=str)
def test_unknown_variants_are_refused(options):
    with pytest.raises(ValueError, match="must be one of"):
        resnet(**options)
