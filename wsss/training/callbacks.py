"""Keras callbacks of the training program: each has one task at the end of a step or an epoch.

They share `logs`: `Validation` adds its metrics, and the callbacks after it record them.
"""

import csv
import itertools
import logging
import os
import platform
import time
from collections.abc import Callable
from io import StringIO
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from wsss.common import io
from wsss.training import state as checkpoint
from wsss.training.state import Progress

logger = logging.getLogger(__name__)


class StateKeeper(keras.callbacks.Callback):
    """Saves the run's whole state, and stops the run when its loss or its weights are no longer finite.

    The state is saved at the end of each epoch and, optionally, every `save_steps` steps. Only finite states
    are saved, so that the file always holds the last good weights; they are restored when the run stops.

    Args:
        path: where the state goes.
        steps_per_epoch: steps of a whole epoch.
        save_steps: save every so many steps of an epoch as well; 0 = at epoch ends only.
        writes: whether this process writes the file (the others of a cluster only take part).
        monitor: `LearningMonitor` whose conclusions are saved too, or None.

    Attributes:
        progress: how far the run is.
        failure: why the run was stopped, or None.
    """

    def __init__(
        self,
        path: str,
        *,
        steps_per_epoch: int,
        save_steps: int = 0,
        writes: bool = True,
        monitor: "LearningMonitor | None" = None,
    ):
        super().__init__()
        self.path = path
        self._monitor = monitor
        self.progress = Progress()
        self.steps_per_epoch = steps_per_epoch
        self.save_steps = save_steps
        self.writes = writes
        self.failure: str | None = None
        self._saved = self.progress
        self._first_step = 0
        self._running_means: list[np.ndarray] | None = None

    def restore(self) -> None:
        """Loads the saved state into the model; called once, before `fit`."""
        self.progress = self._saved = checkpoint.load(self.path, self.model)
        self._running_means = [variable.numpy() for variable in self.model.metrics_variables]
        if self._monitor:
            self._monitor.restore(self.progress)

    def save(self) -> None:
        """Saves the state as it is now, unless it is not finite, which stops the run."""
        arrays = checkpoint.capture(self.model)
        if not checkpoint.is_finite(arrays):
            self._stop("a weight is not finite")
            return
        if self._monitor:
            self.progress = self._monitor.record(self.progress)
        if self.writes:
            checkpoint.save(self.path, arrays, self.progress)
        self._saved = self.progress

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Restores the running means of an interrupted epoch, which `fit` has just reset."""
        step = self.progress.step if epoch == self.progress.epoch else 0
        self.progress = self.progress._replace(epoch=epoch, step=step)
        self._first_step = self.progress.step
        if self.progress.step and self._running_means:
            for variable, value in zip(self.model.metrics_variables, self._running_means):
                variable.assign(value)
        self._running_means = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks the loss, a running mean; saves when another `save_steps` steps are done."""
        step, before = self._first_step + batch + 1, self.progress.step
        self.progress = self.progress._replace(step=step)
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss):
            self._stop(f"the loss is {loss}")
            return
        due = self.save_steps and step // self.save_steps > before // self.save_steps
        if due and step < self.steps_per_epoch:
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves a whole epoch."""
        if self.failure is None:
            self.progress = self.progress._replace(epoch=epoch + 1, step=0)
            self.save()

    def _stop(self, reason):
        epoch, step = self.progress.epoch, self.progress.step
        total = epoch * self.steps_per_epoch + step
        kept = self._saved.epoch * self.steps_per_epoch + self._saved.step
        self.failure = (
            f"Stopped at step {total} (epoch {epoch + 1}, step {step}): {reason}. "
            f"The weights of step {kept} are kept. A lower --learning_rate often helps."
        )
        self.progress = checkpoint.load(self.path, self.model)
        self.model.stop_training = True


class LearningMonitor(keras.callbacks.Callback):
    """Notices a network that does not learn its tags or label maps, and stops it if asked.

    At each epoch's end, once `min_steps` steps are done, the network has learned if the loss of what it
    learns is below that of the best constant scores, and its mean average precision above chance.

    Args:
        baseline: what constant scores reach.
        steps_per_epoch: steps of a whole epoch.
        epochs: of the whole run; a call of `fit` may be for the rest of an interrupted epoch alone.
        watch_map: whether a `val_map` at chance counts as not having learned.
        min_steps: steps before which nothing is concluded.
        stops: whether a network that does not learn is stopped.

    Attributes:
        learned: as of the last epoch; None before `min_steps`, except that the last epoch always counts.
        problem: what was wrong, in one line, or None.
        best_map: highest `val_map` so far, or None.
    """

    def __init__(
        self,
        baseline: Any,
        *,
        steps_per_epoch: int,
        epochs: int,
        watch_map: bool = True,
        min_steps: int = 100,
        stops: bool = True,
    ):
        super().__init__()
        self._baseline, self._steps_per_epoch, self._watch_map = baseline, steps_per_epoch, watch_map
        self._epochs, self._min_steps, self._stops = epochs, min_steps, stops
        self.learned: bool | None = None
        self.problem: str | None = None
        self.best_map: float | None = None

    def restore(self, progress: Progress) -> None:
        """Goes on from what was concluded before a kill; called once, before `fit`."""
        self.learned, self.problem, self.best_map = progress.learned, progress.problem, progress.best_map

    def record(self, progress: Progress) -> Progress:
        """The `Progress` with what is concluded so far."""
        return progress._replace(learned=self.learned, problem=self.problem, best_map=self.best_map)

    @property
    def stopped(self) -> bool:
        """Whether training is at an end because the network does not learn."""
        return bool(self.problem and self._stops)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Compares the epoch's loss and precision with the baseline."""
        logs = logs or {}
        loss, precision = logs.get(self._baseline.LOSS), logs.get("val_map")
        if loss is None:
            return
        if precision is not None:
            self.best_map = max(float(precision), self.best_map or 0.0)
        steps = (epoch + 1) * self._steps_per_epoch
        if steps < self._min_steps and epoch + 1 < self._epochs:
            return
        self.problem = self._baseline.find_problem(loss, precision if self._watch_map else None)
        self.learned = self.problem is None
        if self.stopped:
            self.model.stop_training = True


class Validation(keras.callbacks.Callback):
    """Adds the metrics of the validation split to the epoch's logs.

    Args:
        evaluate: function of the model that returns a dictionary of metrics.
        is_due: function of the epoch, from 0, that returns whether the model is evaluated after it.
    """

    def __init__(
        self,
        evaluate: Callable[[keras.Model], dict[str, float]],
        is_due: Callable[[int], bool] = lambda epoch: True,
    ):
        super().__init__()
        self._evaluate, self._is_due = evaluate, is_due

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluates where it is due, unless the run was stopped."""
        if logs is not None and self._is_due(epoch) and not self.model.stop_training:
            logs.update({f"val_{name}": value for name, value in self._evaluate(self.model).items()})


class HistoryFile(keras.callbacks.Callback):
    """Keeps `history.csv`: one row an epoch, the same after a resumed run as after an undisturbed one."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path
        self._rows: list[dict[str, Any]] | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps the rows of the epochs that an earlier run finished, and drops later ones."""
        if self._rows is None:
            self._rows = [*read_history(self.path)[:epoch]]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Rewrites all rows, atomically: a kill never leaves half a row."""
        if self.model.stop_training:
            return
        learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        rows = self._rows = [
            *(self._rows or []),
            {"epoch": epoch + 1, "learning_rate": learning_rate, **metrics},
        ]
        stream = StringIO()
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        io.write_text(self.path, stream.getvalue())


def read_history(path: str) -> list[dict[str, str]]:
    """The rows of `history.csv` as dictionaries; none where there is no file."""
    if not io.exists(path):
        return []
    return list(csv.DictReader(StringIO(io.read_text(path))))


class Summaries(keras.callbacks.Callback):
    """Writes scalars and CAM overlays for TensorBoard.

    Args:
        directory: where the event files go.
        draw: function of the model that returns uint8 RGB pictures `(count, height, width, 3)`, or None.
        is_due: function of the epoch, from 0, that returns whether pictures are drawn after it.
    """

    def __init__(
        self,
        directory: str,
        draw: Callable[[keras.Model], np.ndarray] | None = None,
        is_due: Callable[[int], bool] = lambda epoch: True,
    ):
        super().__init__()
        self._directory = directory
        self._draw, self._is_due = draw, is_due
        self._file: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Opens the event file."""
        self._file = self._file or _EventFile(self._directory)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes one point per metric, and one row of pictures where they are due."""
        values = [
            _summary_value(name, np.float32(value), "scalars", data_class=1)
            for name, value in (logs or {}).items()
        ]
        if self._draw is not None and self._is_due(epoch):
            pictures = self._draw(self.model)
            height, width = (str(side).encode() for side in pictures.shape[1:3])
            encoded = [tf.io.encode_png(picture).numpy() for picture in pictures]
            values.append(_summary_value("cam", [width, height, *encoded], "images", data_class=3))
        self._file.write(step=epoch + 1, summary=tf.compat.v1.Summary(value=values))


def _summary_value(name, value, plugin, data_class):
    """What `tf.summary.scalar` and `tf.summary.image` write, which need the package tensorboard to do so."""
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = plugin
    metadata.data_class = data_class
    return tf.compat.v1.Summary.Value(tag=name, tensor=tf.make_tensor_proto(value), metadata=metadata)


class _EventFile:
    """A new event file of TensorBoard. What cannot be written raises; `tf.summary`'s writer drops it."""

    _numbers = itertools.count()

    def __init__(self, directory):
        tf.io.gfile.makedirs(directory)
        place = f"{time.time():.0f}.{platform.node()}.{os.getpid()}.{next(self._numbers)}"
        self._writer = tf.io.TFRecordWriter(io.join(directory, f"events.out.tfevents.{place}.v2"))
        self.write(file_version="brain.Event:2")

    def write(self, **fields):
        """Writes an event of these fields to the disk."""
        event = tf.compat.v1.Event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())
        self._writer.flush()


class PlainProgress(keras.callbacks.Callback):
    """Progress for a log file: a line an epoch, and one about every half minute within long ones.

    Args:
        write: function that takes a line.
        interval: seconds between lines within an epoch.
        clock: function that returns seconds.
    """

    def __init__(
        self,
        write: Callable[[str], Any] = print,
        interval: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        self._write = write
        self._interval = interval
        self._clock = clock

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._epoch = epoch + 1
        self._started = self._last = self._clock()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a line if `interval` has passed since the last one."""
        now = self._clock()
        if now - self._last >= self._interval:
            self._last = now
            pace = (now - self._started) / (batch + 1)
            steps = self.params.get("steps") or "?"
            self._line(f"step {batch + 1}/{steps} ({pace:.2f} s a step)", logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the metrics of the epoch."""
        self._line(f"{self._clock() - self._started:.0f} s", logs)

    def _line(self, place, logs):
        metrics = ", ".join(f"{name} {float(value):.4g}" for name, value in (logs or {}).items())
        self._write(f"epoch {self._epoch}/{self.params['epochs']}, {place}: {metrics}")
