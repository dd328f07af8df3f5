"""Vector operations inside kernels, and what happens under versions of the compiler that were not tested."""

from pathlib import Path

import numpy as np
import pytest

from wsss.refine import simd

TESTED = "0.61.0", "0.44.0"
UNTESTED = "0.99.0", "0.80.0"


def test_operations_give_what_numpy_gives():
    assert simd._operations_are_correct()


def test_exponentials_are_exact_to_the_last_digits_and_zero_below():
    """`exp` over its whole range, sixteen lanes at a time."""
    x = np.linspace(-90, 0, 1600, dtype=np.float32)
    result = np.empty_like(x)

    @simd.njit
    def run(vector_lanes, x, result):
        for i in range(0, x.size, 16):
            simd.store(result, i, simd.exp(simd.load(vector_lanes, x, i)))

    run(simd.lanes(16), x, result)
    np.testing.assert_allclose(result, np.where(x < -80, 0, np.exp(x.astype(np.float64))), rtol=3e-7)


@pytest.mark.parametrize("count", [4, 8, 16, 24])
def test_reductions_run_over_all_lanes(count):
    x = np.arange(1, count + 1, dtype=np.float32)
    result = np.empty((2, count), np.float32)

    @simd.njit
    def run(vector_lanes, x, result):
        vector = simd.load(vector_lanes, x, 0)
        simd.store(result, 0, simd.all_sum(vector))
        simd.store(result, len(vector_lanes), simd.all_maximum(vector))

    run(simd.lanes(count), x, result.reshape(-1))
    np.testing.assert_array_equal(result, [[count * (count + 1) / 2] * count, [count] * count])


def test_tested_versions_are_not_tried_again(monkeypatch):
    monkeypatch.setattr(simd, "_operations_are_correct", lambda: pytest.fail("tried"))
    simd._check_versions(*TESTED)


def test_the_installation_is_bound_to_the_tested_versions():
    setup = (Path(__file__).resolve().parents[2] / "setup.py").read_text(encoding="utf-8")
    for name, ((major, first), (_, last)) in simd.TESTED.items():
        assert f'"{name}>={major}.{first},<{major}.{last + 1}"' in setup


def test_other_versions_may_work():
    simd._check_versions(*UNTESTED)


def test_versions_that_compute_something_else_are_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(simd, "_operations_are_correct", lambda: False)
    with pytest.raises(ImportError, match=r"not work with numba 0\.99\.0 and llvmlite 0\.80\.0\. Install"):
        simd._check_versions(*UNTESTED)


def test_versions_that_do_not_compile_are_named_with_the_remedy(monkeypatch):
    def changed(*args):
        raise TypeError("VectorType() takes 1 argument")

    monkeypatch.setattr(simd, "_try_operations", changed)
    with pytest.raises(ImportError, match=r"Install numba>=0\.61,<0\.69, llvmlite>=0\.44,<0\.51"):
        simd._check_versions(*UNTESTED)
