"""A convolution whose channels are computed in groups is the convolution."""

import keras
import numpy as np
import pytest

from wsss.inference.tiling import channels as tiling_channels


@pytest.fixture(autouse=True)
def _two_channels_at_once(monkeypatch):
    monkeypatch.setattr(tiling_channels, "uses_eigen_conv", lambda: True)
    monkeypatch.setattr(tiling_channels, "CHANNELS_AT_ONCE", 2)


@pytest.mark.parametrize(("channels", "groups"), [(10, 5), (8, 4), (6, 1), (9, 1)])
def test_many_channels_are_split_and_few_or_uneven_ones_are_not(channels, groups):
    kernels = tiling_channels.split_output_channels(keras.ops.ones((3, 3, 4, channels)))
    assert [tuple(kernel.shape) for kernel in kernels] == [(3, 3, 4, channels // groups)] * groups


def test_a_kernel_is_whole_where_onednn_or_an_accelerator_multiplies(monkeypatch):
    monkeypatch.setattr(tiling_channels, "uses_eigen_conv", lambda: False)
    kernel = keras.ops.ones((1, 1, 4, 10))
    assert tiling_channels.split_output_channels(kernel)[0] is kernel


def test_merged_groups_give_the_numbers_of_the_whole():
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.normal(size=(2, 9, 40, 3)).astype("float32"),
        rng.normal(size=(3, 3, 3, 8)).astype("float32"),
    )
    kernels = tiling_channels.split_output_channels(keras.ops.array(kernel))
    actual = tiling_channels.concat_channels([keras.ops.conv(x, part) for part in kernels])
    np.testing.assert_allclose(
        *(keras.ops.convert_to_numpy(each) for each in (actual, keras.ops.conv(x, kernel))), atol=1e-5
    )
