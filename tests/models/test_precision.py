"""The published networks in half precision and under the compiler, against float32 and eager operations."""

import keras
import numpy as np
import pytest

from tests.gradients import compiled, evaluate, to_numpy
from wsss.weights.published import build_network

# Narrow ones of the published layers and depth.
NETWORKS = {
    "seam": {"classes": 3, "width": 1 / 16},
    "pixel2prototype": {"classes": 3, "width": 1 / 16},
    "affinity": {"width": 1 / 16},
    "irn_cam": {"classes": 3, "width": 1 / 8},
    "irn_edge": {"width": 1 / 8},
}
IMAGES = np.random.default_rng(0).uniform(size=(2, 48, 56, 3)).astype("float32")


def network(name, policy="float32"):
    """The functional model of all outputs, with the same weights under every policy."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        model = build_network(name, **NETWORKS[name])
    finally:
        keras.config.set_dtype_policy("float32")
    return getattr(model, "network", model)


def assert_each_close(actual, expected, tolerance):
    """Every output within `tolerance` of its largest value."""
    expected = keras.tree.flatten(expected)
    for one, other in zip(keras.tree.flatten(actual), expected, strict=True):
        assert other.std() > 0
        np.testing.assert_allclose(one.astype("float32"), other, rtol=0, atol=tolerance * np.abs(other).max())


@pytest.fixture(scope="module", params=NETWORKS)
def name_and_outputs(request):
    """Each network and what it gives in single precision, computed once for both half precisions."""
    return request.param, evaluate(network(request.param), IMAGES)


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_float16", 0.01), ("mixed_bfloat16", 0.05)])
def test_half_precision_is_close_to_single(name_and_outputs, policy, tolerance):
    """Half precision rounds to 2 ** -11 and 2 ** -9; the bounds are what some fifty layers make of that."""
    name, expected = name_and_outputs
    half = network(name, policy)
    assert any(layer.compute_dtype == policy.removeprefix("mixed_") for layer in half.layers)
    assert_each_close(evaluate(half, IMAGES), expected, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.backends("tensorflow", "jax", reason="XLA")
def test_compiled_network_equals_the_eager_one(name):
    model = network(name)
    assert_each_close(compiled(model)(IMAGES), to_numpy(model(IMAGES)), 1e-5)
