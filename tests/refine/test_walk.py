"""The random walk against the dense matrix of its definition and against recorded results."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras import ops

from tests.golden import assert_close, golden_cases
from wsss.common.pixel_pairs import pair_offsets, path_pixels
from wsss.inference.cam_scores import background_scores, enlarge_cells, mean_of_cells
from wsss.ops.affinity import feature_affinity, path_affinity, path_offsets
from wsss.refine.affinity import Affinity, edge_affinity, pair_affinity
from wsss.refine.crf import DenseCRF, unary_from_probabilities
from wsss.refine.walk import _chebyshev_coefficients, random_walk


def dense_matrix(affinity):
    """The symmetric matrix of all affinities, with ones on the diagonal; float64."""
    height, width = affinity.weights.shape[1:]
    matrix = np.eye(height * width)
    for (dy, dx), weights in zip(affinity.offsets, affinity.weights):
        for y in range(height - dy):
            for x in range(max(0, -dx), min(width, width - dx)):
                one, other = y * width + x, (y + dy) * width + x + dx
                matrix[one, other] = matrix[other, one] = weights[y, x]
    return matrix


def dense_walk(scores, affinity, beta, steps):
    transition = dense_matrix(affinity) ** beta
    transition /= transition.sum(axis=0)
    flat = np.moveaxis(scores, 2, 0).reshape(scores.shape[2], -1).astype(np.float64)
    return np.moveaxis(
        (flat @ np.linalg.matrix_power(transition, steps)).reshape(-1, *scores.shape[:2]), 0, 2
    )


def affinity_of_features(feature, radius=5, **options):
    """The `Affinity` of features (height, width, channels), as an AffinityNet predicts it."""
    pairs = feature_affinity(ops.convert_to_tensor(feature[None]), radius, all_pairs=True)
    return pair_affinity(ops.convert_to_numpy(pairs)[0], radius, **options)


def random_case(height, width, classes=2, radius=3, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.array(pair_offsets(radius))
    weights = rng.random((len(offsets), height, width)).astype(np.float32)
    return rng.random((height, width, classes)).astype(np.float32), Affinity(offsets, weights)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 9),
    st.integers(1, 20),
    st.integers(1, 3),
    st.sampled_from([2, 3, 5]),
    st.sampled_from([1.0, 2.5, 8.0, 10.0]),
    st.sampled_from([0, 1, 2, 3, 7, 64, 255, 256, 1000]),
    st.integers(0, 2**20),
)
@example(6, 1, 1, 2, 8.0, 1000, 1)
def test_walk_equals_the_dense_matrix(height, width, classes, radius, beta, steps, seed):
    scores, affinity = random_case(height, width, classes, radius, seed)
    expected = dense_walk(scores, affinity, beta, steps)
    rounding = steps * 2.0**-24  # at most half a float32 unit a step
    assert_close(random_walk(scores, affinity, beta, steps), expected, rtol=max(1e-5, rounding))


def test_walk_keeps_constants_and_the_weighted_mass_of_every_class():
    scores, affinity = random_case(12, 17)
    weights = dense_matrix(affinity) ** 4
    mass = weights.sum(axis=0).reshape(12, 17, 1)
    walked = random_walk(scores, affinity, 4, 500)
    np.testing.assert_allclose((mass * walked).sum((0, 1)), (mass * scores).sum((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(random_walk(np.ones((12, 17, 1)), affinity, 4, 500), 1, atol=1e-6)


def test_long_walks_do_not_drift():
    scores, affinity = random_case(8, 9)
    matrix = dense_matrix(affinity) ** 8
    mass = matrix.sum(axis=0)
    limit = (mass @ scores.reshape(-1, 2)) / mass.sum()
    walked = random_walk(scores, affinity, 8, 2**14)
    np.testing.assert_allclose(walked, np.broadcast_to(limit, walked.shape), rtol=1e-4)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_error_of_the_expansion_is_below_its_tolerance(tolerance):
    scores, affinity = random_case(10, 13, seed=3)
    mass = (dense_matrix(affinity) ** 8).sum(axis=0).reshape(10, 13, 1)
    error = random_walk(scores, affinity, 8, 256, tolerance) - dense_walk(scores, affinity, 8, 256)
    assert np.sqrt((mass * error**2).sum()) <= tolerance * np.sqrt((mass * scores**2).sum())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 3000), st.sampled_from([1e-3, 1e-6]))
def test_chebyshev_weights_give_the_power(steps, tolerance):
    coefficients = _chebyshev_coefficients(steps, tolerance)
    x = np.linspace(-1, 1, 41)
    value = np.polynomial.chebyshev.chebval(x, coefficients.astype(np.float64))
    np.testing.assert_allclose(value, x**steps, atol=tolerance + 1e-6)


def test_few_products_suffice():
    assert len(_chebyshev_coefficients(256, 1e-6)) - 1 <= 80
    assert len(_chebyshev_coefficients(64, 1e-6)) - 1 <= 40


def test_classes_walk_on_their_own():
    scores, affinity = random_case(7, 9, classes=4)
    walked = random_walk(scores, affinity)
    np.testing.assert_array_equal(random_walk(scores[..., [2, 0]], affinity), walked[..., [2, 0]])


def test_mirroring_the_image_mirrors_the_walk():
    rng = np.random.default_rng(0)
    scores, feature = rng.random((9, 11, 2)), rng.random((9, 11, 5), np.float32)
    mirrored = random_walk(scores[:, ::-1], affinity_of_features(feature[:, ::-1].copy()))
    expected = random_walk(scores, affinity_of_features(feature))
    np.testing.assert_allclose(mirrored[:, ::-1], expected, rtol=1e-5)


def test_predicted_affinity_is_that_of_the_features():
    feature = np.random.default_rng(0).normal(size=(6, 8, 3)).astype(np.float32)
    affinity = affinity_of_features(feature)
    for (dy, dx), weights in zip(affinity.offsets, affinity.weights):
        for y in range(6 - dy):
            for x in range(max(0, -dx), min(8, 8 - dx)):
                expected = np.exp(-np.abs(feature[y, x] - feature[y + dy, x + dx]).mean())
                assert weights[y, x] == pytest.approx(expected, rel=1e-5)


def test_published_borders_leave_out_pairs_that_training_does_not_see():
    """Radius 3 at 5 x 6: upper pixels in rows 0..2 and columns 2..3 remain."""
    affinity = pair_affinity(np.ones((5, 6, 12)), 3, published_borders=True)
    expected = np.zeros((5, 6))
    expected[:3, 2:4] = 1
    for weights in affinity.weights:
        np.testing.assert_array_equal(weights, expected)


def test_edge_affinity_equals_the_form_that_is_trained():
    """The trained one has the pairs whose first pixel has all neighbors, in IRN's order of offsets."""
    edge = np.random.default_rng(0).random((11, 14), np.float32)
    trained = ops.convert_to_numpy(path_affinity(ops.convert_to_tensor(edge[None]), 5))[0]
    affinity = edge_affinity(edge, 5)
    order = [path_offsets(5).index(tuple(offset)) for offset in affinity.offsets.tolist()]
    np.testing.assert_array_equal(affinity.weights[:, :7, 4:10], np.moveaxis(trained, 2, 0)[order])


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([2, 4, 5, 7]), st.integers(0, 2**20))
def test_edge_affinity_is_the_maximum_over_the_path_to_the_last_bit(height, width, radius, seed):
    edge = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    affinity = edge_affinity(edge, radius)
    for (dy, dx), weights in zip(affinity.offsets, affinity.weights):
        for y in range(height - dy):
            for x in range(max(0, -dx), min(width, width - dx)):
                assert weights[y, x] == np.float32(1) - max(
                    edge[y + py, x + px] for py, px in path_pixels(dy, dx)
                )


def test_threads_give_the_same_walks():
    scores, affinity = random_case(20, 30, classes=3)
    expected = random_walk(scores, affinity)
    with ThreadPoolExecutor(4) as pool:
        for walked in pool.map(lambda _: random_walk(scores, affinity), range(8)):
            np.testing.assert_array_equal(walked, expected)


SCORES, AFFINITY = random_case(4, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_walk(SCORES[:3], AFFINITY), "same height"),
        (lambda: random_walk(SCORES[..., :0], AFFINITY), "not empty"),
        (lambda: random_walk(SCORES * np.nan, AFFINITY), "must be finite"),
        (
            lambda: random_walk(SCORES, Affinity(AFFINITY.offsets, AFFINITY.weights * np.inf)),
            "must be finite",
        ),
        (lambda: random_walk(SCORES, Affinity(AFFINITY.offsets, -AFFINITY.weights)), "0 or more"),
        (lambda: random_walk(SCORES, AFFINITY, beta=0), "`beta` must be"),
        (lambda: random_walk(SCORES, AFFINITY, steps=-1), "`steps` must be"),
        (lambda: random_walk(SCORES, AFFINITY, steps=2.5), "`steps` must be"),
        (lambda: random_walk(SCORES, AFFINITY, tolerance=0), "`tolerance` must lie"),
        (lambda: pair_affinity(np.zeros((4, 5, 12))), r"must be \(height, width, 34\)"),
        (lambda: edge_affinity(np.zeros((0, 5))), "`edge` must be"),
        (lambda: edge_affinity(np.zeros((4, 5)), radius=1), "`radius` must be"),
    ],
)
def test_bad_input_gives_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message) as caught, np.errstate(invalid="ignore"):
        call()
    assert "\n" not in str(caught.value)


@golden_cases("f_rw")
def test_affinity_net_walk_equals_the_published_one(case):
    height, width = case["image"].shape[:2]
    affinity = affinity_of_features(case.channels_last("feature")[0], published_borders=True)
    np.testing.assert_allclose(dense_matrix(affinity), case["aff_dense"], rtol=1e-5)

    pooled = case["cam_pooled21"]
    padded = [8 * side for side in pooled.shape[1:]]
    # One of the published programs has a constant background; the recording does not say which it was.
    is_constant = np.abs(pooled[0] - 0.27).min() < 1e-6 and pooled[0].max() < 0.2701
    rule = {"threshold": 0.27} if is_constant else {"alpha": float(case["alpha"])}
    scores = np.zeros((21, height, width), np.float32)
    scores[0], scores[case["keys"] + 1] = background_scores(case["cams"], **rule), case["cams"]
    assert_close(mean_of_cells(scores, pooled.shape[1:]), pooled, atol=1e-5)

    walked = random_walk(np.moveaxis(pooled, 0, 2), affinity, float(case["beta"]), 2 ** int(case["logt"]))
    walked = np.moveaxis(walked, 2, 0)
    assert_close(walked, case["cam_rw_low"], rtol=1e-4)
    assert_close(walked, case["cam_rw_low_f64"], rtol=1e-5)

    upsampled = enlarge_cells(walked, padded)
    if case["crf"]:
        image = normalized_and_back(case["image"], padded)
        energies = unary_from_probabilities(np.clip(np.moveaxis(upsampled, 0, 2), 0, 1))
        upsampled = np.moveaxis(DenseCRF(image).infer(energies, 1), 2, 0)
        error = np.abs(upsampled[case["rw_rows"]] - case["cam_rw_up_rows"])
        assert np.quantile(error, 0.999) <= 1e-4  # as recorded CRFs are compared everywhere
        assert error.max() <= 1e-2
    else:
        assert_close(upsampled[case["rw_rows"]], case["cam_rw_up_rows"], rtol=1e-4)
    prediction = upsampled.argmax(0)[:height, :width]
    assert (prediction == case["pred"]).mean() >= 0.999


def normalized_and_back(image, size):
    """What the published program shows to its CRF: its network's input, padded, as pixels again.

    Normalized in float64, kept and taken back in float32, and cut to integers: a third of the numbers comes
    out one lower.
    """
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalized = np.float32((image / 255 - mean) / deviation)
    normalized = np.pad(normalized, [*((0, out - side) for side, out in zip(image.shape, size)), (0, 0)])
    back = (normalized * np.float32(deviation) + np.float32(mean)) * np.float32(255)
    return np.clip(back, 0, 255).astype(np.uint8)


@golden_cases("i_irn_propagate")
def test_irn_walk_equals_the_published_one(case):
    edge, radius = case["edge"][0], int(case["radius"])
    affinity = edge_affinity(edge, radius)
    height, width = edge.shape
    grid = np.zeros((len(affinity.offsets), height + radius, width + 2 * radius), np.float32)
    recorded = dict(zip(map(tuple, case["search_dst_dy_dx"].tolist()), case["sparse_affinity_padded"][0]))
    assert set(recorded) == set(map(tuple, affinity.offsets.tolist()))
    reach = radius - 1
    rows, columns = grid.shape[1] - reach, grid.shape[2] - 2 * reach
    for (dy, dx), weights in zip(affinity.offsets.tolist(), affinity.weights):
        expected = recorded[dy, dx].reshape(rows, columns)[:, radius - reach :]
        ys, xs = slice(0, height - dy), slice(max(0, -dx), min(width, width - dx))
        np.testing.assert_array_equal(weights[ys, xs], expected[ys, xs])

    scores = np.moveaxis(case["cam"] * (1 - edge), 0, 2)
    walked = random_walk(scores, affinity, float(case["beta"]), 2 ** int(case["exp_times"]))
    walked = np.moveaxis(walked, 2, 0)
    assert_close(walked[:, None], case["rw"], rtol=5e-4)
    assert_close(walked[:, None], case["rw_f64"], rtol=1e-5)
    full_height, full_width = case["orig_size_hw"]
    upsampled = enlarge_cells(walked, (4 * height, 4 * width))[:, :full_height, :full_width]
    upsampled /= upsampled.max()
    assert_close(upsampled, case["rw_up_normalised"], rtol=5e-4)
    background = np.full((1, full_height, full_width), 0.25)
    labels = case["keys"][np.concatenate([background, upsampled]).argmax(0)]
    assert (labels == case["sem_seg_pred"]).mean() >= 0.998
