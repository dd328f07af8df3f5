"""COCO's run lengths against hand-worked strings, our reader, and pycocotools."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wsss.data.sources.coco import decode_run_lengths
from wsss.data.targets.run_lengths import encode_run_lengths, regions_of, run_lengths

MASKS = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.sampled_from([0, 1, 1, 2, 255])
)


def whole(region, mask):
    canvas = np.zeros(mask.shape, bool)
    height, width = region.inside.shape
    canvas[region.top : region.top + height, region.left : region.left + width] = region.inside
    return canvas


def test_runs_go_down_the_columns():
    mask = np.array([[0, 1, 1], [1, 1, 0]], np.uint8)
    (region,) = regions_of(mask)
    assert run_lengths(region, 2, 3).tolist() == [1, 4, 1]
    assert region.area == 4
    assert region.box == [0, 0, 3, 2]


@pytest.mark.parametrize(
    ("mask", "counts"), [(np.ones((2, 2), np.uint8), [0, 4]), (np.eye(2, dtype=np.uint8), [0, 1, 2, 1])]
)
def test_a_first_pixel_inside_begins_with_an_empty_run(mask, counts):
    (region,) = regions_of(mask)
    assert run_lengths(region, 2, 2).tolist() == counts


def test_components_share_edges_and_not_corners():
    mask = np.array([[1, 0, 1], [0, 1, 1], [2, 0, 0]], np.uint8)
    assert [(region.number, region.area) for region in regions_of(mask, components=True)] == [
        (1, 1),
        (1, 3),
        (2, 1),
    ]
    assert [(region.number, region.area) for region in regions_of(mask)] == [(1, 4), (2, 1)]


@given(MASKS, st.booleans())
def test_what_is_encoded_is_decoded_by_the_reader(mask, components):
    drawn = np.zeros_like(mask)
    for region in regions_of(mask, components):
        inside = decode_run_lengths(encode_run_lengths(region, *mask.shape))
        np.testing.assert_array_equal(inside, whole(region, mask))
        drawn[inside] = region.number
    np.testing.assert_array_equal(drawn, mask)


def test_the_string_is_that_of_pycocotools():
    coco = pytest.importorskip("pycocotools.mask", reason="the reference of COCO's run lengths")
    rng = np.random.default_rng(0)
    for size in [(1, 1), (3, 5), (64, 48), (375, 500)]:
        noise = (rng.random(size) < 0.5).astype(np.uint8)
        blocks = np.kron(rng.integers(0, 3, (4, 4)), np.ones((size[0], size[1]))).astype(np.uint8)
        large = blocks[: size[0], : size[1]], np.ones(size, np.uint8)
        for mask in large if size[0] > 64 else (noise, *large):  # of noise there would be 30,000 regions
            for components in (False, True):
                for region in regions_of(mask, components):
                    expected = coco.encode(np.asfortranarray(whole(region, mask), np.uint8))
                    found = encode_run_lengths(region, *size)
                    assert found == {**expected, "counts": expected["counts"].decode()}
                    assert coco.toBbox(found).tolist() == region.box
                    assert coco.area(found) == region.area
