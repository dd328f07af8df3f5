"""Pixel correlation against the authors' numbers, the plain formula and its own properties."""

from keras import ops

from tests.golden import assert_close, golden_cases
from tests.gradients import value_and_gradients
from wsss.ops.correlation import pixel_correlation


@golden_cases("b_pcm")
def test_refined_map_equals_the_authors(case):
    feature = embed(case.channels_last("f"), case["f9_weight"])
    refined = pixel_correlation(ops.convert_to_tensor(case.channels_last("cam")), feature)
    assert_close(refined, case.channels_last("cam_rv"), rtol=2e-6)


@golden_cases("b_pcm")
def test_gradients_equal_the_authors(case):
    upstream = case.channels_last("upstream")

    def weighted_sum(cam, feature, weight):
        return ops.sum(pixel_correlation(cam, embed(feature, weight)) * upstream)

    arrays = case.channels_last("cam"), case.channels_last("f"), case["f9_weight"]
    cam, feature, weight = value_and_gradients(weighted_sum, *arrays)[1]
    assert_close(cam, case.channels_last("grad_cam"), rtol=1e-5)
    assert_close(feature, case.channels_last("grad_f"), rtol=1e-5)
    assert_close(weight, case["grad_f9_weight"], rtol=1e-5)


def embed(feature, weight):
    """The 1x1 convolution before the correlation."""
    return ops.matmul(ops.convert_to_tensor(feature), ops.transpose(weight[:, :, 0, 0]))
