"""Label Studio's brushes against a hand-worked stream and Label Studio's own converter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wsss.data.targets.brush import decode_brush, encode_brush

REGIONS = arrays.arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30)))


@given(REGIONS)
def test_what_is_encoded_is_decoded(inside):
    np.testing.assert_array_equal(decode_brush(encode_brush(inside), *inside.shape), inside)


def test_the_bytes_are_these():
    """32 bits of 8 values, 5 of the word size less 1, 4 sizes less 1; then two runs of 4 values each."""
    bits = f"{8:032b}{7:05b}" + "0010" + "0011" + "0111" + "1111"
    bits += "1" + "00" + "011" + "11111111" + "1" + "00" + "011" + "00000000"
    bits = bits.ljust(88, "0")
    expected = [int(bits[place : place + 8], 2) for place in range(0, 88, 8)]
    assert encode_brush(np.array([[True, False]])) == expected


def test_a_run_is_cut_where_it_is_too_long_for_16_bits():
    inside = np.ones((200, 200), bool)
    np.testing.assert_array_equal(decode_brush(encode_brush(inside), 200, 200), inside)


def test_values_that_do_not_repeat_are_read():
    """What a browser draws has runs that are written value by value."""
    bits = f"{8:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += "0" + "00" + f"{7:03b}" + "".join(f"{value:08b}" for value in (0, 0, 0, 255, 9, 9, 9, 100))
    data = [int(bits[place : place + 8].ljust(8, "0"), 2) for place in range(0, len(bits), 8)]
    assert decode_brush(data, 1, 2).tolist() == [[True, False]]


@pytest.mark.parametrize("data", [[], [1, 2, 3], encode_brush(np.ones((3, 3), bool))[:8]])
def test_a_damaged_brush_is_an_error(data):
    with pytest.raises(ValueError, match="a brush"):
        decode_brush(data, 3, 3)


def test_the_bytes_are_those_of_label_studios_converter():
    reference = pytest.importorskip("label_studio_converter.brush", reason="Label Studio's own run lengths")
    rng = np.random.default_rng(0)
    for size in [(1, 1), (7, 5), (40, 60), (200, 300)]:
        for inside in (rng.random(size) < 0.1, rng.random(size) < 2, np.indices(size).sum(0) < size[0]):
            rle = encode_brush(inside)
            assert rle == reference.mask2rle(255 * inside.astype(np.uint8))
            np.testing.assert_array_equal(
                reference.decode_rle(rle).reshape(*size, 4)[..., 3], 255 * inside.astype(np.uint8)
            )
