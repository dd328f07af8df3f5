"""Pictures: what colors and sizes they have."""

import io

import numpy as np
from PIL import Image

from wsss.data.images import voc_palette
from wsss.visualization import heat_map, overlay, side_by_side

GRAY = np.full((2, 2, 3), 100, np.uint8)


def test_an_overlay_tints_classes_and_leaves_the_background():
    mask = np.array([[0, 1], [15, 255]], np.uint8)
    picture = overlay(GRAY, mask, opacity=0.5)
    assert picture[0, 0].tolist() == [100, 100, 100]
    assert picture[0, 1].tolist() == [114, 50, 50]
    np.testing.assert_allclose(picture[1, 0], (100 + voc_palette()[15].astype(int)) / 2, atol=1)
    np.testing.assert_allclose(picture[1, 1], 177, atol=1)


def test_heat_goes_from_blue_to_red():
    heat = heat_map(GRAY * 0, np.array([[0.0, 0.5], [0.75, 1.0]]), opacity=1.0)
    assert heat[0, 0].argmax() == 2
    assert heat[0, 1].argmax() == 1
    assert heat[1, 1].argmax() == 0
    assert heat.max() <= 255


def test_pictures_in_a_row_share_one_height():
    wide = np.zeros((10, 40, 3), np.uint8)
    with Image.open(io.BytesIO(side_by_side([GRAY, wide], height=20, gap=4))) as strip:
        assert strip.size == (20 + 4 + 80, 20)
        assert strip.getpixel((21, 5)) == (255, 255, 255)
