"""Pixel-adaptive mask refinement against the authors' numbers and its own properties."""

from keras import ops

from tests.golden import assert_close, golden_cases
from wsss.ops.pamr import refine_masks


@golden_cases("k_pamr")
def test_refined_mask_equals_the_authors(case):
    refined = refine_masks(
        ops.convert_to_tensor(case.channels_last("x")),
        ops.convert_to_tensor(case.channels_last("mask")),
        int(case["num_iter"]),
        tuple(map(int, case["dilations"])),
    )
    assert_close(ops.convert_to_numpy(refined), case.channels_last("refined"), atol=2e-5)
