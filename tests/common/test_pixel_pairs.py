"""Offsets of pairs and the pixels on their lines, worked out by hand."""

import pytest

from wsss.common.pixel_pairs import pair_offsets, path_pixels


def test_every_unordered_pair_of_a_disc_comes_once():
    assert pair_offsets(2) == ((0, 1), (1, -1), (1, 0), (1, 1))
    offsets = pair_offsets(5)
    both_ways = {*offsets, *((-dy, -dx) for dy, dx in offsets)}
    disc = {(y, x) for y in range(-5, 6) for x in range(-5, 6) if 0 < y * y + x * x < 25}
    assert both_ways == disc
    assert len(offsets) == 34 == len(disc) / 2


@pytest.mark.parametrize("radius", [1, 0, 2.5])
def test_a_radius_without_pairs_is_refused(radius):
    with pytest.raises(ValueError, match="`radius` must be an integer, 2 or more"):
        pair_offsets(radius)


def test_a_path_holds_the_pixels_nearer_than_one_to_the_line():
    assert path_pixels(0, 3) == ((0, 0), (0, 1), (0, 2), (0, 3))
    assert path_pixels(2, 0) == ((0, 0), (1, 0), (2, 0))
    assert path_pixels(1, -1) == ((0, -1), (0, 0), (1, -1), (1, 0))
    # (0, 2) and (2, 0) lie 1.41 off the diagonal, the pixels beside it 0.71
    assert path_pixels(2, 2) == ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2))
