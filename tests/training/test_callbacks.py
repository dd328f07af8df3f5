"""Callbacks of the training program."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from wsss.training.baseline import ConstantScores
from wsss.training.callbacks import (
    HistoryFile,
    LearningMonitor,
    PlainProgress,
    StateKeeper,
    Summaries,
    Validation,
    read_history,
)
from wsss.training.state import Progress

STEPS = 4


def make_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.5), loss="mse", jit_compile=False)
    return model


def make_data(bad_step=None, epochs=2, skip=0):
    generator = np.random.RandomState(0)
    x = generator.rand(STEPS * epochs, 2, 2).astype("float32")
    y = generator.rand(STEPS * epochs, 2, 1).astype("float32")
    if bad_step is not None:
        y[bad_step - 1, 0, 0] = np.nan
    return tf.data.Dataset.from_tensor_slices((x, y)).skip(skip)


def fit(model, data, callbacks, epochs=2, first=0, steps=STEPS):
    model.fit(
        data,
        epochs=epochs,
        initial_epoch=first,
        steps_per_epoch=steps,
        callbacks=callbacks,
        verbose=0,
        shuffle=False,
    )


def keeper_for(path, model, **options):
    keeper = StateKeeper(str(path), steps_per_epoch=STEPS, **options)
    keeper.set_model(model)
    return keeper


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_weights(tmp_path):
    good = make_model()
    fit(good, make_data(), [], epochs=1)
    model = make_model()
    keeper = keeper_for(tmp_path / "state.npz", model)
    keeper.save()
    fit(model, make_data(bad_step=6), [keeper])
    assert "step 6 (epoch 2, step 2): the loss is nan" in keeper.failure
    assert "weights of step 4" in keeper.failure
    for one, other in zip(model.get_weights(), good.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path):
    model = make_model()
    keeper = keeper_for(tmp_path / "state.npz", model, save_steps=2)
    keeper.save()
    fit(model, make_data(bad_step=3, epochs=1), [keeper], epochs=1)
    assert np.isfinite(model.get_weights()[0]).all()
    assert "weights of step 2" in keeper.failure


def test_a_run_stopped_within_an_epoch_goes_on_with_the_same_weights_and_mean_loss(tmp_path):
    undisturbed, whole = make_model(), HistoryFile(str(tmp_path / "whole.csv"))
    fit(undisturbed, make_data(), [whole])
    model = make_model()
    keeper = keeper_for(tmp_path / "state.npz", model, save_steps=3)
    fit(model, make_data(), [keeper], epochs=1, steps=3)
    keeper.progress = Progress(0, 3)
    keeper.save()

    model = make_model()
    keeper = keeper_for(tmp_path / "state.npz", model)
    keeper.restore()
    assert keeper.progress == Progress(0, 3)
    resumed = HistoryFile(str(tmp_path / "resumed.csv"))
    fit(model, make_data(skip=3), [resumed, keeper], epochs=1, steps=1)
    fit(model, make_data(skip=4), [resumed, keeper], first=1)
    for one, other in zip(model.get_weights(), undisturbed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert read_history(resumed.path) == read_history(whole.path)
    assert keeper.progress == Progress(2, 0)


class FailingMetrics(keras.callbacks.Callback):
    """Gives each epoch the metrics of a network that has not learned."""

    def on_epoch_end(self, epoch, logs=None):
        logs |= {"classification_loss": 0.9, "val_map": np.float32(0.75 - epoch / 4)}


def test_what_a_monitor_concluded_outlives_a_kill(tmp_path):
    """Also one after the last epoch, before the result was written: a restart was still to come."""
    monitors = []
    for _ in "ab":
        monitors.append(
            LearningMonitor(ConstantScores(0.5, 0.5), steps_per_epoch=STEPS, epochs=2, min_steps=STEPS)
        )
        model = make_model()
        keeper = keeper_for(tmp_path / "state.npz", model, monitor=monitors[-1])
        if len(monitors) == 1:
            fit(model, make_data(), [FailingMetrics(), monitors[-1], keeper], epochs=1)
    keeper.restore()
    first, second = monitors
    assert first.problem
    assert (first.learned, first.best_map, first.stopped) == (False, 0.75, True)
    assert second.problem == first.problem
    assert (second.learned, second.best_map, second.stopped) == (False, 0.75, True)


@pytest.mark.parametrize(("epochs", "learned"), [(1, False), (2, None)])
def test_the_rest_of_an_interrupted_epoch_is_not_taken_for_the_last_epoch(epochs, learned):
    monitor = LearningMonitor(ConstantScores(0.5, 0.5), steps_per_epoch=STEPS, epochs=epochs)
    model = make_model()
    fit(model, make_data(), [FailingMetrics(), monitor], epochs=1)
    assert monitor.learned is learned
    assert model.stop_training == (learned is False)


def test_the_history_keeps_the_rows_of_the_epochs_that_were_done(tmp_path):
    path = str(tmp_path / "history.csv")
    fit(make_model(), make_data(), [HistoryFile(path)])
    before = read_history(path)
    assert [row["epoch"] for row in before] == ["1", "2"]
    fit(make_model(), make_data(), [HistoryFile(path)], first=1)
    after = read_history(path)
    assert [row["epoch"] for row in after] == ["1", "2"]
    assert after[0] == before[0]


def test_figures_of_the_validation_reach_the_callbacks_behind_it(tmp_path):
    path = str(tmp_path / "history.csv")
    fit(make_model(), make_data(), [Validation(lambda model: {"miou": 0.5}), HistoryFile(path)])
    assert [row["val_miou"] for row in read_history(path)] == ["0.5", "0.5"]


def test_epochs_after_which_no_evaluation_is_due_have_losses_alone(tmp_path):
    path = str(tmp_path / "history.csv")

    validation = Validation(lambda model: {"map": 0.5}, lambda epoch: epoch == 1)
    fit(make_model(), make_data(), [validation, HistoryFile(path)])
    rows = read_history(path)
    assert [row["val_map"] for row in rows] == ["", "0.5"]
    assert all(row["loss"] for row in rows)


def test_summaries_hold_scalars_and_pictures(tmp_path):
    pictures = np.zeros((2, 4, 6, 3), np.uint8)
    fit(make_model(), make_data(), [Summaries(str(tmp_path), lambda model: pictures)])
    (path,) = tmp_path.iterdir()
    found = {}
    for record in tf.data.TFRecordDataset(str(path)):
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
            found.setdefault(value.tag, []).append(value)
    assert len(found["loss"]) == 2
    assert found["loss"][0].metadata.plugin_data.plugin_name == "scalars"
    width, height, first, _ = tf.make_ndarray(found["cam"][0].tensor)
    assert (width, height) == (b"6", b"4")
    assert tf.io.decode_png(first).shape == (4, 6, 3)


def test_summaries_draw_where_it_is_due(tmp_path):
    drawn = []

    def draw(model):
        drawn.append(model)
        return np.zeros((1, 4, 4, 3), np.uint8)

    fit(make_model(), make_data(), [Summaries(str(tmp_path), draw, lambda epoch: epoch == 1)])
    assert len(drawn) == 1


def test_summaries_that_cannot_be_written_end_the_run(tmp_path, monkeypatch):
    def refuse(writer, record):
        raise tf.errors.ResourceExhaustedError(None, None, "events; No space left on device")

    monkeypatch.setattr(tf.io.TFRecordWriter, "write", refuse)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        fit(make_model(), make_data(), [Summaries(str(tmp_path))])


@pytest.mark.parametrize(("interval", "lines"), [(1000.0, 2), (0.0, 2 + 2 * STEPS)])
def test_plain_progress_writes_a_line_an_epoch_and_some_within_long_ones(interval, lines):
    written = []
    fit(make_model(), make_data(), [PlainProgress(written.append, interval)])
    assert len(written) == lines
    assert written[-1].startswith("epoch 2/2")
    assert "loss" in written[-1]
