"""The non-local block against its definition."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.gradients import to_numpy
from wsss.layers.nonlocal_block import NonLocal, nonlocal_neural_network


@pytest.mark.parametrize("gaussian", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("mode", ["spatial", "channel"])
def test_non_local_block_is_the_weighted_mean_of_its_definition(gaussian, relu, mode):
    rng = np.random.default_rng(0)
    x, first, second = (rng.uniform(0.1, 1, size=(2, 3, 4, c)).astype("float32") for c in (6, 6, 6))
    actual = to_numpy(
        nonlocal_neural_network(
            x, use_gaussian=gaussian, use_relu=relu, embed1=first, embed2=second, mode=mode
        )
    )
    rows = [part.reshape(2, 12, -1) for part in (first, second, x)]
    a, b, g = rows if mode == "spatial" else [part.transpose(0, 2, 1) for part in rows]
    similarity = a @ b.transpose(0, 2, 1)
    if gaussian:
        weights = np.exp(similarity)
    else:
        lengths = np.linalg.norm(a, axis=-1)[:, :, None] * np.linalg.norm(b, axis=-1)[:, None, :]
        weights = similarity / lengths
    expected = weights / weights.sum(axis=-1, keepdims=True) @ g
    expected = expected if mode == "spatial" else expected.transpose(0, 2, 1)
    np.testing.assert_allclose(actual.reshape(expected.shape), expected, atol=1e-5)


def test_non_local_block_joins_a_keras_graph():
    image = layers.Input((6, 6, 4))
    embedding = layers.Conv2D(3, 1, name="embedding")
    outputs = {
        "cosine": nonlocal_neural_network(image, use_gaussian=False, use_relu=True, name="cosine"),
        "embedded": nonlocal_neural_network(image, embed1=embedding, embed2=embedding, name="embedded"),
    }
    model = keras.Model(image, outputs)
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype("float32")
    for name, expected in model(x).items():
        np.testing.assert_allclose(to_numpy(again(x)[name]), to_numpy(expected), atol=1e-6)
    assert isinstance(model.get_layer("cosine"), NonLocal)
