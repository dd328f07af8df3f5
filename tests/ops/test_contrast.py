"""Pixel-to-prototype contrast against the authors' numbers and its own properties."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tests.golden import assert_close, golden_cases
from tests.gradients import gradients, to_numpy
from wsss.ops.contrast import (
    ContrastView,
    class_scores,
    estimate_prototypes,
    intra_view_contrast,
    pixel_prototype_contrast,
    prototype_contrast,
    pseudo_labels,
)
from wsss.ops.resize import resize_bilinear


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
