"""Pixel-to-prototype contrast against the authors' numbers and its own properties."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tests.golden import assert_close, golden_cases
from tests.gradients import compiled, gradients, to_numpy
from wsss.ops.contrast import (
    ContrastView,
    Prototypes,
    class_scores,
    estimate_prototypes,
    intra_view_contrast,
    pixel_prototype_contrast,
    prototype_contrast,
    pseudo_labels,
    sample_pixels,
)
from wsss.ops.resize import resize_bilinear

properties = settings(deadline=None, max_examples=8)
seeds = st.integers(0, 2**32 - 1)


class Recorded(NamedTuple):
    """One view of a golden case, taken through our steps."""

    scores: Any
    labels: Any
    prototypes: Any
    pixels: Any
    sampled: Any


def recorded_view(case, number):
    cam = case.channels_last(f"cam_rv{number}_down")[..., 1:]
    projection = resize_bilinear(
        ops.convert_to_tensor(case.channels_last(f"f_proj{number}")), (16, 16), align_corners=True
    )
    scores = class_scores(ops.convert_to_tensor(cam), float(case["bg_threshold"]))
    labels = pseudo_labels(scores, case["label21"][:, 1:])
    features = ops.reshape(projection, (-1, projection.shape[-1]))
    prototypes = estimate_prototypes(features, scores, case["label21"][:, 1:])
    pixels = features / ops.norm(features, axis=-1, keepdims=True)
    return Recorded(scores, labels, prototypes, pixels, recorded_sample(case, number))


def recorded_sample(case, number):
    """The authors' random pixels (positions within each class) as a mask over all pixels."""
    sampled = np.zeros(case[f"pseudo_label{number}"].shape, bool)
    start = case[f"sample_ptr{number}"]
    for i, label in enumerate(case[f"sample_classes{number}"]):
        of_class = np.flatnonzero(case[f"pseudo_label{number}"] == label)
        sampled[of_class[case[f"sample_index{number}"][start[i] : start[i + 1]]]] = True
    return sampled


def contrast_of(case, projection1, projection2):
    cams = (case.channels_last(f"cam_rv{number}_down")[..., 1:] for number in (1, 2))
    views = [ContrastView(p, ops.convert_to_tensor(cam)) for p, cam in zip((projection1, projection2), cams)]
    return pixel_prototype_contrast(
        *views,
        ops.convert_to_tensor(case["label21"][:, 1:]),
        sampled=(recorded_sample(case, 1), recorded_sample(case, 2)),
        background_threshold=float(case["bg_threshold"]),
    )


@golden_cases("d_ppc")
def test_scores_labels_and_prototypes_equal_the_authors(case):
    for number in (1, 2):
        view = to_numpy(recorded_view(case, number))
        assert_close(view.scores, case.channels_last(f"norm_cam{number}"), atol=2e-6)
        assert np.array_equal(view.labels, case[f"pseudo_label{number}"])
        assert np.array_equal(view.prototypes.pixels, case[f"top_indices{number}"])
        assert_close(view.prototypes.vectors, case[f"prototypes{number}"], atol=2e-6)


@golden_cases("d_ppc")
def test_each_raw_term_equals_the_authors(case):
    one, two = recorded_view(case, 1), recorded_view(case, 2)
    terms = {
        "loss_nce1": prototype_contrast(one.pixels, one.labels, two.prototypes),
        "loss_nce2": prototype_contrast(two.pixels, two.labels, one.prototypes),
        "loss_cross_nce2_1": prototype_contrast(one.pixels, two.labels, one.prototypes),
        "loss_cross_nce2_2": prototype_contrast(two.pixels, one.labels, two.prototypes),
        "loss_intra_nce1": intra_view_contrast(one.pixels, one.labels, one.prototypes, one.sampled),
        "loss_intra_nce2": intra_view_contrast(two.pixels, two.labels, two.prototypes, two.sampled),
    }
    for name, value in terms.items():
        assert_close(to_numpy(value), case[name], atol=2e-6)


@golden_cases("d_ppc")
def test_weighted_terms_equal_the_authors(case):
    projections = (ops.convert_to_tensor(case.channels_last(f"f_proj{number}")) for number in (1, 2))
    terms = to_numpy(contrast_of(case, *projections))
    assert_close(0.1 * terms.cross_prototype, case["loss_cross_nce"], atol=2e-6)
    assert_close(0.1 * terms.cross_cam, case["loss_cross_nce2"], atol=2e-6)
    assert_close(0.1 * terms.intra_view, case["loss_intra_nce"], atol=2e-6)
    assert_close(0.1 * sum(terms), case["loss_nce"], atol=2e-6)


@golden_cases("d_ppc")
def test_gradients_equal_the_authors(case):
    projections = [case.channels_last(f"f_proj{number}") for number in (1, 2)]
    found = gradients(lambda *maps: 0.1 * sum(contrast_of(case, *maps)), *projections)
    for number, gradient in zip((1, 2), found):
        assert_close(gradient, case.channels_last(f"grad_f_proj{number}"), rtol=2e-5)


def random_inputs(seed, grid=(4, 4), batch=2, classes=5, channels=6):
    """Two views on the grid, and labels: the first two classes here, the third there."""
    rng = np.random.default_rng(seed)
    views = [
        ContrastView(
            rng.normal(size=(batch, *grid, channels)).astype("float32"),
            rng.normal(size=(batch, *grid, classes)).astype("float32"),
        )
        for _ in range(2)
    ]
    labels = np.zeros((batch, classes), "float32")
    labels[0, :2] = labels[1, 2] = 1
    return *views, labels


def contrast(view, other, labels, **options):
    options = {"grid": (4, 4), "pixels_per_prototype": 4, "negative_ranks": (1, 3)} | options
    views = (ContrastView(*map(ops.convert_to_tensor, maps)) for maps in (view, other))
    return pixel_prototype_contrast(*views, ops.convert_to_tensor(labels), **options)


@properties
@given(seed=seeds)
def test_order_of_the_classes_does_not_matter(seed):
    view, other, labels = random_inputs(seed)
    order = np.random.default_rng(seed).permutation(5)
    permuted = [ContrastView(maps.projection, maps.refined_cam[..., order]) for maps in (view, other)]
    for repaired in (False, True):
        terms = to_numpy(contrast(view, other, labels, repaired=repaired))
        again = to_numpy(contrast(*permuted, labels[:, order], repaired=repaired))
        np.testing.assert_allclose(again, terms, rtol=1e-4)


@properties
@given(seed=seeds)
def test_order_of_the_images_does_not_matter_where_ties_are_repaired(seed):
    view, other, labels = random_inputs(seed)
    swapped = (ContrastView(*(maps[::-1] for maps in pair)) for pair in (view, other))
    terms = to_numpy(contrast(view, other, labels, repaired=True))
    again = to_numpy(contrast(*swapped, labels[::-1], repaired=True))
    # The intra-view term samples every other pixel of a class, in the order of the images.
    np.testing.assert_allclose(again[:2], terms[:2], rtol=1e-4)


def test_maps_and_prototypes_get_no_gradient():
    view, other, labels = random_inputs(0)

    def loss(cam, other_cam):
        views = ContrastView(view.projection, cam), ContrastView(other.projection, other_cam)
        return sum(contrast(*views, labels))

    for gradient in gradients(loss, view.refined_cam, other.refined_cam):
        assert not gradient.any()

    def against_prototypes(features):
        scores = class_scores(ops.convert_to_tensor(other.refined_cam), grid=(4, 4))
        prototypes = estimate_prototypes(features, scores, labels, 4)
        pixels = np.eye(32, 6, dtype="float32")
        return prototype_contrast(pixels, np.zeros(32, "int32"), prototypes)

    (gradient,) = gradients(against_prototypes, other.projection.reshape(32, 6))
    assert not gradient.any()


def test_loss_of_orthogonal_prototypes_by_hand():
    prototypes = Prototypes(ops.eye(2), None, ops.ones((2,), "bool"))
    pixels, labels = ops.convert_to_tensor(np.eye(2, dtype="float32")), np.array([0, 1], "int32")
    loss = to_numpy(prototype_contrast(pixels, labels, prototypes, temperature=0.5))
    assert loss == pytest.approx(np.log(1 + np.exp(-2)), rel=1e-5)
    # Both classes have one pixel: nothing to take half of.
    assert to_numpy(intra_view_contrast(pixels, labels, prototypes, np.zeros(2, bool))) == 0


def test_equal_scores_are_taken_in_the_order_of_the_pixels():
    scores = ops.ones((2, 3, 3, 4))
    pixels = estimate_prototypes(ops.ones((18, 2)), scores, None, 5).pixels
    assert np.array_equal(ops.convert_to_numpy(pixels), np.tile(np.arange(5), (4, 1)))


def test_pixels_never_get_a_class_that_their_image_does_not_have():
    view, _, labels = random_inputs(0)
    scores = class_scores(ops.convert_to_tensor(view.refined_cam), 0.1, grid=(4, 4))
    found = ops.convert_to_numpy(pseudo_labels(scores, ops.convert_to_tensor(labels))).reshape(2, 16)
    assert set(found[0]) <= {0, 1, 2}
    assert set(found[1]) <= {0, 3}


def test_repaired_contrast_does_not_see_absent_classes():
    view, other, labels = random_inputs(0)
    changed = ContrastView(view.projection, view.refined_cam.copy())
    changed.refined_cam[..., 3:] = 100 * np.random.default_rng(1).random((2, 4, 4, 2))
    terms, same = (to_numpy(contrast(v, other, labels, repaired=True)) for v in (view, changed))
    np.testing.assert_allclose(same, terms, rtol=1e-6)
    terms, others = (to_numpy(contrast(v, other, labels)) for v in (view, changed))
    assert abs(others.cross_prototype - terms.cross_prototype) > 1e-4


def test_repaired_background_is_the_mean_of_the_pixels_with_the_least_foreground():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(9, 4)).astype("float32")
    foreground = rng.permutation(np.linspace(0.1, 0.9, 9)).astype("float32").reshape(1, 3, 3, 1)
    scores = ops.convert_to_tensor(np.concatenate([np.full_like(foreground, 0.2), foreground], axis=-1))
    labels = ops.ones((1, 1))
    repaired = to_numpy(estimate_prototypes(ops.convert_to_tensor(features), scores, labels, 3, True))
    lowest = np.argsort(foreground.ravel())[:3]
    assert np.array_equal(repaired.pixels[0], lowest)
    mean = np.average(features[lowest], axis=0, weights=1 - foreground.ravel()[lowest])
    np.testing.assert_allclose(repaired.vectors[0], mean / np.linalg.norm(mean), atol=1e-4)


@properties
@given(seed=seeds, fraction=st.sampled_from([0.0, 0.25, 0.5, 1.0]), random=st.booleans())
def test_sample_is_a_fraction_of_every_class(seed, fraction, random):
    labels = np.random.default_rng(seed).integers(0, 4, 40).astype("int32")
    tensor = ops.convert_to_tensor(labels)
    chosen = [ops.convert_to_numpy(sample_pixels(tensor, fraction, 7 if random else None)) for _ in range(2)]
    assert np.array_equal(*chosen)
    for label in range(4):
        assert chosen[0][labels == label].sum() == int(fraction * np.sum(labels == label))


def test_another_seed_takes_other_pixels():
    labels = ops.zeros((100,), "int32")
    one, other = (ops.convert_to_numpy(sample_pixels(labels, seed=seed)) for seed in (1, 2))
    assert not np.array_equal(one, other)


def test_hard_pixels_are_those_least_like_their_prototype():
    # Ten pixels of class 0, ever less like prototype 0; published: of the lowest six the upper five.
    angles = np.linspace(0.1, 1.0, 10).astype("float32")
    pixels = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    prototypes = Prototypes(ops.eye(2), None, ops.ones((2,), "bool"))
    options = {"temperature": 1.0, "negative_ranks": (0, 2)}
    loss = intra_view_contrast(
        ops.convert_to_tensor(pixels), np.zeros(10, "int32"), prototypes, np.zeros(10, bool), **options
    )
    own, rest = pixels[:, 0], np.exp(pixels).sum(axis=-1)
    expected = np.log(np.exp(own) + rest) - own
    assert to_numpy(loss) == pytest.approx(expected[4:9].mean(), rel=1e-5)


def test_features_of_length_zero_have_a_finite_gradient():
    view, other, labels = random_inputs(0)
    projection = view.projection.copy()
    projection[0, 0, 0] = 0
    (gradient,) = gradients(
        lambda x: sum(contrast(ContrastView(x, view.refined_cam), other, labels)), projection
    )
    assert np.isfinite(gradient).all()


def test_compiled_contrast_equals_the_eager_one():
    view, other, labels = random_inputs(0)

    def terms(*maps):
        return tuple(contrast(ContrastView(*maps[:2]), ContrastView(*maps[2:4]), maps[4]))

    arrays = *view, *other, labels
    np.testing.assert_allclose(compiled(terms)(*arrays), to_numpy(terms(*arrays)), rtol=1e-5)


def test_half_precision_features_keep_three_digits_of_the_loss():
    view, other, labels = random_inputs(0)
    half = [ContrastView(maps.projection.astype("float16"), maps.refined_cam) for maps in (view, other)]
    np.testing.assert_allclose(
        to_numpy(contrast(*half, labels)), to_numpy(contrast(view, other, labels)), rtol=1e-2
    )
