"""A convolution whose channels are computed in groups is the convolution."""

import keras
import numpy as np
import pytest

from wsss.inference.tiling import channels as wide


@pytest.fixture(autouse=True)
def _two_channels_at_once(monkeypatch):
    monkeypatch.setattr(wide, "multiplies_by_eigen", lambda: True)
    monkeypatch.setattr(wide, "CHANNELS_AT_ONCE", 2)


@pytest.mark.parametrize(("channels", "parts"), [(10, 5), (8, 4), (6, 1), (9, 1)])
def test_many_channels_are_split_and_few_or_uneven_ones_are_not(channels, parts):
    kernels = wide.in_parts(keras.ops.ones((3, 3, 4, channels)))
    assert [tuple(kernel.shape) for kernel in kernels] == [(3, 3, 4, channels // parts)] * parts


def test_a_kernel_is_whole_where_onednn_or_an_accelerator_multiplies(monkeypatch):
    monkeypatch.setattr(wide, "multiplies_by_eigen", lambda: False)
    kernel = keras.ops.ones((1, 1, 4, 10))
    assert wide.in_parts(kernel)[0] is kernel


def test_merged_groups_give_the_numbers_of_the_whole():
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.normal(size=(2, 9, 40, 3)).astype("float32"),
        rng.normal(size=(3, 3, 3, 8)).astype("float32"),
    )
    actual = wide.merge_parts([keras.ops.conv(x, part) for part in wide.in_parts(keras.ops.array(kernel))])
    np.testing.assert_allclose(
        *(keras.ops.convert_to_numpy(each) for each in (actual, keras.ops.conv(x, kernel))), atol=1e-5
    )
