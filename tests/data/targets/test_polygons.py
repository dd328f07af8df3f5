"""The outline of a region, as YOLO's polygons have it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wsss.data.sources.coco import fill_polygon
from wsss.data.targets.polygons import outline

REGIONS = arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(np.any)


@given(REGIONS)
def test_a_filled_outline_is_the_region(inside):
    polygon = outline(inside).ravel().tolist()
    np.testing.assert_array_equal(fill_polygon(polygon, *inside.shape), inside)


def test_a_rectangle_has_four_corners():
    assert sorted(map(tuple, outline(np.ones((2, 3), bool)).tolist())) == [(0, 0), (0, 2), (3, 0), (3, 2)]


def test_a_hole_hangs_on_a_bridge_that_is_upright_or_level():
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    polygon = outline(ring)
    steps = np.diff(polygon, axis=0, append=polygon[:1])
    assert (steps == 0).any(axis=1).all()
    np.testing.assert_array_equal(fill_polygon(polygon.ravel().tolist(), 5, 5), ring)
