"""Affinities and their losses against the authors' numbers, brute force and their own properties."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tests.golden import assert_close, golden_cases
from tests.gradients import compiled, evaluate, to_numpy, value_and_gradients
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
    affinity, displacement = evaluate(losses, *arrays)
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
        assert_close(value, case[name], atol=2e-6)

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


def test_affinity_on_a_path_is_one_minus_the_maximum_over_its_pixels():
    edge = np.random.default_rng(0).random((2, 13, 17), "float32")
    radius, reach = 6, 5
    affinity = ops.convert_to_numpy(path_affinity(ops.convert_to_tensor(edge), radius))
    for index, offset in enumerate(path_offsets(radius)):
        strongest = np.max(
            [edge[:, y : y + 13 - reach, reach + x : 17 - reach + x] for y, x in path_pixels(*offset)], axis=0
        )
        assert np.array_equal(affinity[..., index], 1 - strongest)


def test_affinity_of_all_pairs_holds_the_published_ones_and_zeros_outside():
    feature = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype("float32")
    some = ops.convert_to_numpy(feature_affinity(ops.convert_to_tensor(feature), 3))
    full = ops.convert_to_numpy(feature_affinity(ops.convert_to_tensor(feature), 3, all_pairs=True))
    assert full.shape == (2, 7, 9, len(pair_offsets(3)))
    np.testing.assert_allclose(full[:, :5, 2:7], some, atol=1e-6)
    for index, (dy, dx) in enumerate(pair_offsets(3)):
        rows, columns = np.mgrid[:7, :9]
        outside = (rows + dy >= 7) | (columns + dx < 0) | (columns + dx >= 9)
        assert not full[:, outside, index].any()
        assert (full[:, ~outside, index] > 0).all()


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 1.0, 100.0]))
def test_affinities_lie_between_zero_and_one(seed, scale):
    rng = np.random.default_rng(seed)
    feature = (scale * rng.normal(size=(1, 6, 7, 3))).astype("float32")
    edge = rng.random((1, 6, 7), "float32")
    for affinity in (
        feature_affinity(ops.convert_to_tensor(feature), 3),
        path_affinity(ops.convert_to_tensor(edge), 3),
    ):
        values = ops.convert_to_numpy(affinity)
        assert values.min() >= 0
        assert values.max() <= 1


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_renamed_classes_leave_the_pair_labels_as_they_are(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 3, 255], (2, 6, 8)).astype("uint8")
    names = np.arange(256).astype("uint8")
    names[1:4] = rng.permutation(names[1:4])
    found = to_numpy(pair_labels(labels, pair_offsets(3)))
    for mask, same in zip(found, to_numpy(pair_labels(names[labels], pair_offsets(3)))):
        assert np.array_equal(mask, same)
    assert max(sum(found).max(), 0) <= 1  # a pair is of one kind at most


def test_no_loss_where_affinities_are_right_and_none_without_labels():
    labels = pair_labels(np.array([[[0, 0, 1, 1], [0, 0, 1, 255]]], "uint8"), pair_offsets(2))
    right = labels.background + labels.foreground
    loss = to_numpy(affinity_loss(right, labels))
    np.testing.assert_allclose(loss, 0, atol=2e-5)
    unknown = pair_labels(np.full((1, 2, 4), 255, "uint8"), pair_offsets(2))
    assert to_numpy(affinity_loss(right, unknown).total) == 0


def test_displacements_to_one_centre_lose_nothing_within_a_class():
    rows, columns = np.mgrid[:8, :9].astype("float32")
    displacement = np.stack([3 - rows, 5 - columns], axis=-1)[None]
    offsets = path_offsets(3)
    labels = pair_labels(np.ones((1, 8, 9), "uint8"), offsets)
    loss = to_numpy(displacement_loss(ops.convert_to_tensor(displacement), labels, offsets))
    assert loss.foreground == 0
    assert loss.background == 0  # there is none


def test_radius_without_pairs_is_an_error():
    with pytest.raises(ValueError, match="`radius` must be an integer, 2 or more"):
        pair_offsets(1)


def test_compiled_affinities_equal_the_eager_ones():
    rng = np.random.default_rng(0)
    arrays = rng.random((1, 8, 9, 1), "float32"), rng.normal(size=(1, 8, 9, 3)).astype("float32")

    def affinities(edge, feature):
        return path_affinity(edge, 4), feature_affinity(feature, 4, all_pairs=True)

    for found, expected in zip(compiled(affinities)(*arrays), to_numpy(affinities(*arrays))):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_sizes_known_only_at_run_time_give_the_same_affinities():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("shapes are always known on this backend")
    import tensorflow as tf

    rng = np.random.default_rng(0)
    edge, feature = rng.random((1, 8, 9), "float32"), rng.random((1, 8, 9, 3), "float32")

    @tf.function(input_signature=[tf.TensorSpec((None,) * 3), tf.TensorSpec((None, None, None, 3))])
    def affinities(edge, feature):
        return path_affinity(edge, 4), feature_affinity(feature, 4, all_pairs=True)

    path, pairs = affinities(edge, feature)
    np.testing.assert_allclose(path, path_affinity(tf.constant(edge), 4), atol=1e-6)
    np.testing.assert_allclose(pairs, feature_affinity(tf.constant(feature), 4, all_pairs=True), atol=1e-6)


def test_half_precision_affinities_keep_three_digits_of_the_loss():
    rng = np.random.default_rng(0)
    feature = rng.normal(size=(1, 8, 9, 16)).astype("float32")
    labels = pair_labels(rng.choice([0, 1, 255], (1, 8, 9)).astype("uint8"), pair_offsets(3))
    full, half = (
        to_numpy(affinity_loss(feature_affinity(ops.convert_to_tensor(x), 3), labels))
        for x in (feature, feature.astype("float16"))
    )
    np.testing.assert_allclose(half, full, rtol=5e-3)
