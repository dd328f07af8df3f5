"""The dense CRF against its definition, against recorded results, and under hard use."""

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import assert_close, golden_cases, recorded
from tests.refine.lattice_oracle import exact_kernel, lattice_kernel, mean_field
from wsss.refine.crf import CRF_PRESETS, CRFParameters, DenseCRF, unary_from_labels, unary_from_probabilities
from wsss.refine.crf.dense_crf import _LatticeCache
from wsss.refine.crf.mean_field import _choose_layout


def photograph(height, width, seed=0):
    """Smooth colors with an edge and some noise, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([80 + 60 * (x > width / 2), 100 + y * 60 / height, 120 + 40 * np.sin(x / 5)], -1)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def random_unary(height, width, labels, seed=0):
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, 1.0, (height, width, labels)).astype(np.float32)


@pytest.mark.parametrize("labels", [1, 2, 3, 5, 9])
def test_inference_equals_an_obvious_lattice(labels):
    image, unary = photograph(9, 14), random_unary(9, 14, labels)
    expected = mean_field(lattice_kernel, image, unary, 3)
    np.testing.assert_allclose(DenseCRF(image).infer(unary, 3), expected, atol=2e-5)


def test_inference_is_close_to_the_exact_kernel():
    image, unary = photograph(12, 16), random_unary(12, 16, 3)
    expected = mean_field(exact_kernel, image, unary, 1)
    assert np.abs(DenseCRF(image).infer(unary, 1) - expected).mean() < 0.02


def test_kernel_constants_are_those_given():
    image, unary = photograph(8, 10), random_unary(8, 10, 2)
    crf = DenseCRF(
        image,
        gaussian_width=2,
        gaussian_strength=1.5,
        bilateral_width=30,
        color_width=7,
        bilateral_strength=4,
    )
    expected = mean_field(lattice_kernel, image, unary, 2, gaussian=(2, 1.5), bilateral=(30, 7, 4))
    np.testing.assert_allclose(crf.infer(unary, 2), expected, atol=2e-5)


def test_scale_divides_the_spatial_widths():
    image, unary = photograph(8, 10), random_unary(8, 10, 2)
    explicit = DenseCRF(image, gaussian_width=1.5, bilateral_width=40).infer(unary)
    np.testing.assert_array_equal(DenseCRF(image, scale=2).infer(unary), explicit)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.integers(1, 3), st.integers(0, 2**20))
def test_results_are_probabilities_whatever_the_shape(height, width, labels, unaries, seed):
    crf = DenseCRF(photograph(height, width, seed))
    results = crf.infer([random_unary(height, width, labels, seed + i) for i in range(unaries)], 2)
    for result in results:
        assert result.shape == (height, width, labels)
        assert result.dtype == np.float32
        assert result.min() >= 0
        np.testing.assert_allclose(result.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(("labels", "unaries"), [(2, 2), (3, 2), (4, 5), (7, 3), (12, 2), (30, 2)])
def test_several_unaries_at_once_give_what_each_gives_alone(labels, unaries):
    crf = DenseCRF(photograph(17, 23))
    many = [random_unary(17, 23, labels, seed) for seed in range(unaries)]
    for together, unary in zip(crf.infer(many, 4), many, strict=True):
        np.testing.assert_allclose(together, crf.infer(unary, 4), atol=1e-6)


def test_order_of_labels_does_not_matter():
    crf, unary = DenseCRF(photograph(10, 11)), random_unary(10, 11, 6)
    order = [3, 0, 5, 1, 4, 2]
    np.testing.assert_allclose(crf.infer(unary[..., order]), crf.infer(unary)[..., order], atol=1e-5)


def test_equal_labels_may_share_a_channel():
    crf, unary = DenseCRF(photograph(10, 11)), random_unary(10, 11, 3)
    full = np.concatenate([unary, np.repeat(unary[..., -1:], 6, axis=2)], axis=2)
    np.testing.assert_allclose(crf.infer(unary, copies=[1, 1, 7]), crf.infer(full)[..., :3], atol=1e-5)


def test_label_maps_are_refined_as_if_all_labels_were_computed():
    image = photograph(20, 24)
    label_map = np.zeros((20, 24), np.uint8)
    label_map[5:15, 8:20] = 7
    label_map[2:5, 2:9] = 11
    crf = DenseCRF(image, "irn")
    full = crf.infer(unary_from_labels(label_map, 21, 0.7)).argmax(-1)
    refined = crf.refine_labels(label_map, 21)
    assert refined.dtype == np.uint8
    np.testing.assert_array_equal(refined, full)


def test_no_iterations_give_the_softmax_of_the_unary():
    unary = random_unary(5, 6, 3)
    expected = np.exp(-unary) / np.exp(-unary).sum(-1, keepdims=True)
    np.testing.assert_allclose(DenseCRF(photograph(5, 6)).infer(unary, 0), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3)])
def test_tiny_images_work(size):
    result = DenseCRF(photograph(*size)).infer(random_unary(*size, 4))
    assert np.isfinite(result).all()


def test_constant_images_work():
    unary = random_unary(30, 20, 3)
    result = DenseCRF(np.full((30, 20, 3), 255, np.uint8)).infer(unary)
    np.testing.assert_allclose(result.sum(-1), 1, atol=1e-5)


def test_one_label_is_certain():
    np.testing.assert_array_equal(DenseCRF(photograph(6, 7)).infer(random_unary(6, 7, 1)), 1)


def test_huge_energies_do_not_overflow():
    result = DenseCRF(photograph(6, 7), bilateral_strength=1e4).infer(1e6 * random_unary(6, 7, 3))
    np.testing.assert_allclose(result.sum(-1), 1, atol=1e-5)


@pytest.mark.slow
def test_three_megapixels_work():
    result = DenseCRF(photograph(1500, 2000)).infer(random_unary(1500, 2000, 2), 1)
    np.testing.assert_allclose(result.sum(-1), 1, atol=1e-5)


def test_noise_makes_the_lattice_grow():
    image = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    crf = DenseCRF(image, "irn")
    assert crf._bilateral.vertices > 150 * 200
    np.testing.assert_allclose(crf.infer(random_unary(150, 200, 2), 1).sum(-1), 1, atol=1e-5)


def test_fast_preset_is_close_to_the_full_one():
    image, unary = photograph(61, 83), random_unary(61, 83, 3)
    unary[10:40, 20:60, 1] -= 2
    fast, full = (DenseCRF(image, name).infer(unary) for name in ("fast", "seam"))
    assert fast.shape == full.shape
    np.testing.assert_allclose(fast.sum(-1), 1, atol=1e-5)
    assert (fast.argmax(-1) == full.argmax(-1)).mean() > 0.9


def test_results_repeat_exactly_and_do_not_depend_on_the_cache():
    image, unary = photograph(31, 37), random_unary(31, 37, 3)
    first = DenseCRF(image).infer(unary)
    for size in range(38, 60):
        DenseCRF(photograph(size, size))
    np.testing.assert_array_equal(DenseCRF(image).infer(unary), first)


def test_threads_may_share_a_crf():
    image, unaries = photograph(60, 80), [random_unary(60, 80, 3, seed) for seed in range(8)]
    crf = DenseCRF(image)
    expected = [crf.infer(unary) for unary in unaries]
    with ThreadPoolExecutor(4) as pool:
        for result, single in zip(pool.map(crf.infer, unaries), expected, strict=True):
            np.testing.assert_array_equal(result, single)
        for result in pool.map(lambda unary: DenseCRF(image).infer(unary), unaries[:1] * 4):
            np.testing.assert_array_equal(result, expected[0])


def _sum_of_inference(queue):
    queue.put(float(DenseCRF(photograph(20, 30)).infer(random_unary(20, 30, 3))[..., 0].sum()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_give_the_same(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    expected = float(DenseCRF(photograph(20, 30)).infer(random_unary(20, 30, 3))[..., 0].sum())
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    worker = context.Process(target=_sum_of_inference, args=(queue,))
    worker.start()
    worker.join(120)
    assert worker.exitcode == 0
    assert queue.get() == expected


def test_lattice_cache_is_bounded():
    cache = _LatticeCache(max_bytes=100_000)
    for width in range(10, 40):
        cache.get(20, width, 3.0, 3.0)
    assert sum(lattice.nbytes for lattice in cache._lattices.values()) <= 100_000
    assert (20, 39, 3.0, 3.0) in cache._lattices


@pytest.mark.parametrize(
    ("labels", "unaries", "lanes"),
    [(2, 1, 4), (2, 2, 4), (3, 1, 4), (3, 2, 8), (8, 1, 8), (9, 1, 16), (21, 1, 24)],
)
def test_labels_are_packed_without_waste(labels, unaries, lanes):
    layout = _choose_layout(labels, unaries)
    assert (layout.width, layout.planes) == (lanes, 1)


def test_importing_the_refinement_does_not_import_tensorflow():
    code = "import sys, wsss.refine.crf.dense_crf; sys.exit(bool({'tensorflow', 'keras'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


IMAGE, UNARY = photograph(4, 5), random_unary(4, 5, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DenseCRF(IMAGE.astype(np.float32)), "must be uint8"),
        (lambda: DenseCRF(IMAGE[..., 0]), "must be uint8"),
        (lambda: DenseCRF(IMAGE[:0]), "at least one pixel"),
        (lambda: DenseCRF(IMAGE, "best"), "`preset` must be one of seam"),
        (lambda: DenseCRF(IMAGE, scale=0), "`scale` must be"),
        (lambda: DenseCRF(IMAGE, color_width=0), "`color_width` must be"),
        (lambda: DenseCRF(IMAGE, bilateral_width=1e-9, color_width=1e-4), "too narrow"),
        (lambda: CRFParameters(gaussian_strength=-1), "`gaussian_strength` must be"),
        (lambda: CRFParameters(iterations=1.5), "`iterations` must be"),
        (lambda: DenseCRF(IMAGE).infer(UNARY, -1), "`iterations` must be"),
        (lambda: DenseCRF(IMAGE).infer(np.full_like(UNARY, np.nan)), "must be finite"),
        (lambda: DenseCRF(IMAGE).infer(UNARY[:3]), "as the image"),
        (lambda: DenseCRF(IMAGE).infer(UNARY[..., :0]), "one label at least"),
        (lambda: DenseCRF(IMAGE).infer([UNARY, UNARY[..., :2]]), "the same in all"),
        (lambda: DenseCRF(IMAGE).infer([]), "empty list"),
        (lambda: DenseCRF(IMAGE).infer(UNARY, copies=[1, 1]), "`copies` must be 3"),
        (lambda: unary_from_probabilities(np.full((4, 5, 2), np.nan)), "without NaN"),
        (lambda: unary_from_probabilities(np.full((4, 5, 2), 1.5)), r"must lie in \[0, 1\]"),
        (lambda: unary_from_labels(np.full((4, 5), 3), 3), r"must lie in 0\.\.2"),
        (lambda: unary_from_labels(np.full((4, 5), -1), 3), r"must lie in 0\.\.2"),
        (lambda: unary_from_labels(np.zeros((4, 5)), 3), "must be integers"),
        (lambda: unary_from_labels(np.zeros((0, 5), int), 3), "at least one pixel"),
        (lambda: unary_from_labels(np.zeros((4, 5), int), 0), "`label_count` must be"),
        (lambda: unary_from_labels(np.zeros((4, 5), int), 3, 1.0), "`confidence` must lie"),
    ],
)
def test_bad_input_gives_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_presets_hold_the_published_constants():
    assert CRF_PRESETS["seam"] == CRFParameters(3, 3, 80, 13, 10, 10)
    assert CRF_PRESETS["irn"] == CRF_PRESETS["ppc"] == CRFParameters(3, 3, 50, 5, 10, 10)
    assert CRF_PRESETS["ppc_segmentation"] == CRFParameters(3, 3, 32, 13, 10, 1)
    assert CRF_PRESETS["deeplab"] == CRFParameters(1, 3, 67, 3, 4, 10)


def assert_refined(actual, expected):
    """Recorded tolerance: 1e-4, but for 0.1 % of the numbers 1e-2."""
    expected = np.moveaxis(expected, 0, -1)
    error = np.abs(actual - expected)[recorded(expected)]
    assert np.quantile(error, 0.999) <= 1e-4
    assert error.max() <= 1e-2


def transposed(array):
    return np.ascontiguousarray(array.swapaxes(0, 1))


def scores_with_background(cams, alpha):
    return np.moveaxis(np.concatenate([(1 - cams.max(0, keepdims=True)) ** alpha, cams]), 0, -1)


@golden_cases("e_crf")
def test_inference_equals_pydensecrf(case):
    image = case["image"]
    low, high = (unary_from_probabilities(scores_with_background(case["cams"], alpha)) for alpha in (4, 24))
    crf = DenseCRF(image)
    for result, name in zip(crf.infer([low, high]), ("Q_la4_t10", "Q_ha24_t10"), strict=True):
        assert_refined(result, case[name])
        kept = recorded(case[name][0])
        np.testing.assert_array_equal(result.argmax(-1)[kept], case[name].argmax(0)[kept])
    assert_close(crf.infer(low, 0), np.moveaxis(case["Q_la4_t0"], 0, -1), atol=1e-6)
    assert_refined(crf.infer(low, 1), case["Q_la4_t1"])
    assert_refined(DenseCRF(image, bilateral_strength=0).infer(low), case["Q_la4_t10_gaussian_only"])
    assert_refined(DenseCRF(image, gaussian_strength=0).infer(low), case["Q_la4_t10_bilateral_only"])


@golden_cases("e_crf_small")
def test_inference_equals_pydensecrf_for_many_labels_and_label_maps(case):
    image = case["image"]
    crf = DenseCRF(image)
    if "prob21" in case:  # not in the subset, for its size
        many = unary_from_probabilities(np.moveaxis(case["prob21"], 0, -1))
        assert_refined(crf.infer(many), case["Q21_t10"])
        assert_refined(DenseCRF(image, scale=2).infer(many, 5), case["Q21_t5_scale2"])
    few = unary_from_probabilities(np.moveaxis(case["prob3"], 0, -1))
    assert_refined(crf.infer(few, 1), case["Q3_t1"])
    assert_refined(crf.infer(few), case["Q3_t10"])
    assert np.nanmean(np.abs(crf.infer(few) - np.moveaxis(case["Q3_t10_exact"], 0, -1))) < 2e-2
    unary = unary_from_labels(case["label21"], 21)
    assert_refined(DenseCRF(image, "ppc").infer(unary), case["Qlabel21_wseg_infer"])
    # Recorded with pydensecrf's `create_pairwise_*`, which put y before x: a transposed image's lattice.
    prepared = DenseCRF(transposed(image), "seam").infer(transposed(unary))
    assert_refined(transposed(prepared), case["Qlabel21_wseg_prepare"])
    refined = DenseCRF(image, "irn").refine_labels(case["label3"], 3)
    np.testing.assert_array_equal(refined, case["argmax_irn_label3"])
