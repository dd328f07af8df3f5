"""Affinities and their losses against the authors' numbers, brute force and their own properties."""

import numpy as np
from keras import ops

from tests.golden import assert_close, golden_cases
from tests.gradients import to_numpy, value_and_gradients
from wsss.ops.affinity import (
    affinity_loss,
    displacement_loss,
    feature_affinity,
    pair_labels,
    pair_offsets,
    path_affinity,
    path_offsets,
    path_pixels,
)


def published_layout(pairs):
    """(batch, rows, columns, offsets) as the authors' (batch, offsets, pixels)."""
    pairs = np.moveaxis(ops.convert_to_numpy(pairs), -1, 1)
    return pairs.reshape(*pairs.shape[:2], -1)


@golden_cases("f_afflabel")
def test_pair_labels_equal_the_authors(case):
    offsets = tuple(map(tuple, case["offsets_dy_dx"].tolist()))
    assert pair_offsets(5) == offsets
    labels = pair_labels(case["label_map"][None], offsets)
    assert np.array_equal(published_layout(labels.background)[0], case["bg_pos"])
    assert np.array_equal(published_layout(labels.foreground)[0], case["fg_pos"])
    assert np.array_equal(published_layout(labels.negative)[0], case["neg"])


@golden_cases("f_afflabel")
def test_affinity_of_features_equals_the_authors(case):
    affinity = feature_affinity(ops.convert_to_tensor(case.channels_last("feature")))
    assert_close(published_layout(affinity), case["aff"], atol=1e-6)


@golden_cases("f_afflabel")
def test_loss_of_affinity_equals_the_authors(case):
    labels = pair_labels(case["label_map"][None], pair_offsets(5))
    feature = case.channels_last("feature")
    loss = to_numpy(affinity_loss(feature_affinity(ops.convert_to_tensor(feature)), labels))
    assert_close(loss.background, case["bg_loss"], atol=1e-6)
    assert_close(loss.foreground, case["fg_loss"], atol=1e-6)
    assert_close(loss.negative, case["neg_loss"], atol=1e-6)

    total, (gradient,) = value_and_gradients(
        lambda feature: affinity_loss(feature_affinity(feature), labels).total, feature
    )
    assert_close(total, case["loss"], atol=1e-6)
    assert_close(gradient, case.channels_last("grad_feature"), rtol=1e-5)


@golden_cases("i_irn_loss")
def test_offsets_and_pair_labels_of_irn_equal_the_authors(case):
    offsets = path_offsets(int(case["radius"]))
    assert offsets == tuple(map(tuple, case["search_dst_dy_dx"].tolist()))
    labels = pair_labels(case["seg_map"], offsets)
    assert np.array_equal(published_layout(labels.background), case["bg_pos"])
    assert np.array_equal(published_layout(labels.foreground), case["fg_pos"])
    assert np.array_equal(published_layout(labels.negative), case["neg"])


@golden_cases("i_irn_loss")
def test_losses_of_irn_equal_the_authors(case):
    radius = int(case["radius"])
    offsets = path_offsets(radius)
    labels = pair_labels(case["seg_map"], offsets)

    def losses(logit, displacement):
        affinity = path_affinity(ops.sigmoid(logit), radius)
        return affinity_loss(affinity, labels), displacement_loss(displacement, labels, offsets)

    arrays = case.channels_last("edge_logit"), case.channels_last("displacement")
    affinity, displacement = losses(*map(ops.convert_to_tensor, arrays))
    found = {
        "bg_pos_aff_loss": affinity.background,
        "fg_pos_aff_loss": affinity.foreground,
        "pos_aff_loss": (affinity.background + affinity.foreground) / 2,
        "neg_aff_loss": affinity.negative,
        "dp_fg_loss": displacement.foreground,
        "dp_bg_loss": displacement.background,
        "total_loss": affinity.total + displacement.total,
    }
    for name, value in found.items():
        assert_close(to_numpy(value), case[name], atol=2e-6)

    total = lambda *maps: sum(term.total for term in losses(*maps))  # noqa: E731
    _, (edge_gradient, displacement_gradient) = value_and_gradients(total, *arrays)
    assert_close(edge_gradient, case.channels_last("grad_edge_logit"), rtol=1e-5)
    assert_close(displacement_gradient, case.channels_last("grad_displacement"), rtol=1e-5)


@golden_cases("i_irn_loss")
def test_paths_equal_the_authors(case):
    """`path_len<L>` lists the flat indices of every path of L pixels, in the order of the offsets."""
    recorded = {int(key.removeprefix("path_len")): case[key] for key in case.keys if "path_len" in key}
    radius = int(case["radius"])
    height, width = case["seg_map"].shape[1:]
    reach = radius - 1
    rows, columns = np.mgrid[0 : height - reach, reach : width - reach].reshape(2, -1)
    for length, paths in recorded.items():
        offsets = [offset for offset in path_offsets(radius) if len(path_pixels(*offset)) == length]
        assert len(offsets) == len(paths)
        for offset, path in zip(offsets, paths):
            ours = [(rows + y) * width + columns + x for y, x in path_pixels(*offset)]
            assert np.array_equal(np.sort(ours, axis=0), np.sort(path, axis=0))


def test_decomposed_paths_give_the_maximum_over_every_pixel_of_the_path():
    edge = np.random.default_rng(0).random((2, 13, 17), "float32")
    radius, reach = 6, 5
    affinity = ops.convert_to_numpy(path_affinity(ops.convert_to_tensor(edge), radius))
    for index, offset in enumerate(path_offsets(radius)):
        strongest = np.max(
            [edge[:, y : y + 13 - reach, reach + x : 17 - reach + x] for y, x in path_pixels(*offset)], axis=0
        )
        assert np.array_equal(affinity[..., index], 1 - strongest)
