"""Instances from a displacement field."""

import numpy as np
import pytest

from tests.golden import golden_cases
from wsss.refine.instances import find_centroids, group_pixels


def field_towards(centers, height, width, owner):
    """Each pixel points a third of the way to the center that `owner` gives it."""
    pixels = np.stack(np.mgrid[:height, :width], -1)
    return ((np.asarray(centers)[owner] - pixels) / 3).astype(np.float32)


def test_pixels_reach_the_center_that_they_point_to():
    owner = np.zeros((20, 40), int)
    owner[:, 20:] = 1
    centers = [(10, 9), (8, 30)]
    field = field_towards(centers, 20, 40, owner)
    centroids = find_centroids(field)
    np.testing.assert_array_equal(centroids, np.asarray(centers)[owner])
    groups = group_pixels(centroids, field)
    assert groups.max() == 1
    np.testing.assert_array_equal(groups == groups[0, 0], owner == 0)


def test_without_displacement_all_pixels_are_one_instance():
    field = np.zeros((5, 6, 2), np.float32)
    centroids = find_centroids(field, 10)
    np.testing.assert_array_equal(centroids, np.stack(np.mgrid[:5, :6], -1))
    np.testing.assert_array_equal(group_pixels(centroids, field), 0)


def test_pixels_stop_at_the_edge():
    centroids = find_centroids(np.full((4, 5, 2), 3.0), 10)
    np.testing.assert_array_equal(centroids, np.broadcast_to([3, 4], (4, 5, 2)))


def test_instances_come_from_the_displacements_of_an_irnet():
    from wsss.backbones.tiny import small_backbone
    from wsss.models.irn import IRNet

    images = np.random.default_rng(0).random((1, 32, 48, 3), np.float32)
    displacement = IRNet(small_backbone(8, width=8), radius=3).predict(images, verbose=0)["displacement"][0]
    instances = group_pixels(find_centroids(displacement), displacement)
    assert instances.shape == (8, 12)
    assert set(np.unique(instances)) == set(range(instances.max() + 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_centroids(np.zeros((4, 5, 3))), r"must be \(height, width, 2\)"),
        (lambda: find_centroids(np.zeros((0, 5, 2))), "not empty"),
        (lambda: find_centroids(np.full((4, 5, 2), np.nan)), "must be finite"),
        (lambda: find_centroids(np.zeros((4, 5, 2)), 0), "`iterations` must be"),
        (lambda: group_pixels(np.zeros((3, 5, 2), int), np.zeros((4, 5, 2))), "`centroids` must be"),
    ],
)
def test_bad_input_gives_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@golden_cases("i_irn_instance")
def test_instances_equal_the_published_ones(case):
    field = np.moveaxis(case["displacement"], 0, 2)
    centroids = find_centroids(field)
    assert (np.moveaxis(centroids, 2, 0) == case["centroids_yx"]).mean() >= 0.99
    groups = group_pixels(centroids, field)
    assert groups.max() + 1 == len(case["instance_masks"])
    masks = groups == np.arange(groups.max() + 1)[:, None, None]
    assert (masks == case["instance_masks"]).mean() >= 0.99
