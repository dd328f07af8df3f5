"""The contrast across contours: by hand, in parts, and where a thing has an edge."""

import numpy as np
import pytest

from wsss.contours import ContourContrast


def test_contrast_across_the_contour_worked_out_by_hand():
    image = np.zeros((1, 4, 3), np.uint8)
    image[0, 2:] = (10, 20, 30)  # an edge between the second and the third pixel
    contrast = ContourContrast([0.1, 0.3, 0.5, 0.9])
    contrast.update(image, np.array([[[0.0, 0.2, 0.6, 0.8]]], np.float32))
    np.testing.assert_allclose(contrast.curve(), [0, 60, 60, 0])


def test_parts_add_up_and_images_without_classes_change_nothing():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (7, 9, 3), dtype=np.uint8) for _ in range(3)]
    scores = [rng.random((2, 7, 9), np.float32) for _ in range(3)]
    whole, first, second = (ContourContrast() for _ in range(3))
    for index in range(3):
        whole.update(images[index], scores[index])
        (first if index else second).update(images[index], scores[index])
    second.update(images[0], scores[0][:0])
    np.testing.assert_array_equal((first + second).curve(), whole.curve())


def test_one_pass_equals_looking_at_each_threshold():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    scores = rng.integers(0, 11, (1, 6, 8)).astype(np.float32) / 10
    thresholds = [0.0, 0.2, 0.5, 0.7]
    contrast = ContourContrast(thresholds)
    contrast.update(image, scores)
    for ours, threshold in zip(contrast.curve(), thresholds, strict=True):
        inside = scores[0] > np.float32(threshold)
        total = count = 0
        for a, b in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
            crossed = inside[a] != inside[b]
            differences = np.abs(image[a].astype(int) - image[b]).sum(axis=-1)
            total, count = total + differences[crossed].sum(), count + crossed.sum()
        assert ours == pytest.approx(total / count)


def test_the_contour_of_a_thing_is_where_its_edge_is():
    distance = np.hypot(*np.mgrid[-30:31, -30:31]) / 30
    scores = np.clip(1.2 - distance, 0, 1)[None].astype(np.float32)
    image = np.where(distance < 0.6, 200, 40).astype(np.uint8)[..., None].repeat(3, axis=-1)
    contrast = ContourContrast()
    contrast.update(image, scores)
    best = contrast.thresholds[contrast.curve().argmax()]
    assert best == pytest.approx(0.59, abs=0.02)
