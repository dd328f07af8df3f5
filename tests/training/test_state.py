"""The saved state of a run."""

import keras
import numpy as np
import pytest

from wsss.common.errors import UserError
from wsss.training import state as checkpoint
from wsss.training.state import Progress


def make_model(units=3):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(units)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss="mse", jit_compile=False)
    return model


def train_step(model):
    generator = np.random.RandomState(0)
    model.train_on_batch(generator.rand(2, 4).astype("float32"), generator.rand(2, 3).astype("float32"))


def test_a_restored_model_takes_the_same_next_steps(tmp_path):
    path = str(tmp_path / "state.npz")
    model = make_model()
    train_step(model)
    checkpoint.save(path, checkpoint.capture(model), Progress(3, 7))
    train_step(model)
    other = make_model()
    assert checkpoint.load(path, other) == Progress(3, 7)
    train_step(other)
    for one, two in zip(checkpoint.capture(model), checkpoint.capture(other), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_state_of_another_model_is_a_users_error(tmp_path):
    path = str(tmp_path / "state.npz")
    checkpoint.save(path, checkpoint.capture(make_model()), Progress())
    with pytest.raises(UserError, match="another model"):
        checkpoint.load(path, make_model(units=5))


def test_a_state_with_a_nan_is_not_finite():
    model = make_model()
    assert checkpoint.is_finite(checkpoint.capture(model))
    model.layers[-1].bias.assign([0.0, np.nan, 0.0])
    assert not checkpoint.is_finite(checkpoint.capture(model))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"spam",
        lambda data: data.replace(b'"epoch": 1', b'"epoch":-1'),
        lambda data: data.replace(b'"epoch": 1', b'"spam_": 1'),
    ],
)
def test_a_damaged_checkpoint_is_one_line(tmp_path, damage):
    path = tmp_path / "state.npz"
    checkpoint.save(path, [np.ones(3)], Progress(1, 2))
    assert checkpoint.read_progress(path) == Progress(1, 2)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"checkpoint .*state\.npz is damaged"):
        checkpoint.read_progress(path)
