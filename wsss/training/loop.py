"""The training loop around `Model.fit`: build, restore, fit, restart, save."""

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any

import keras

from wsss.common import io
from wsss.common.errors import UserError
from wsss.common.keras_file import save_model
from wsss.data.dataset import Collection
from wsss.data.loader import steps_per_epoch
from wsss.inference.predictor import smallest_side
from wsss.training import building, callbacks, strategies
from wsss.training.baseline import constant_labels, constant_scores
from wsss.training.device import DeviceSettings
from wsss.training.evaluator import CamEvaluator, SegmentationEvaluator
from wsss.training.options import TrainingOptions
from wsss.training.run_dir import RunDirectory, describe
from wsss.training.state import Progress, read_progress

LONGEST_EVALUATED = 512  # pixels, of images that are evaluated after an epoch
EVALUATED_STEPS = 20  # least steps between evaluations, of runs with more than ten
RESTARTS = 1  # how often a network that does not learn is trained once more
RESTART_FACTOR = 0.1  # on the learning rate


def train(
    options: TrainingOptions,
    settings: DeviceSettings,
    run: RunDirectory,
    strategy: Any,
    collection: Collection,
) -> str | None:
    """Trains into a run directory, from where a former run of the same options was stopped.

    A network that does not learn, or whose loss is not finite, is trained once more with a tenth of the
    learning rate (`--on_divergence restart`): from the start, or from the last finite state.

    Args:
        options: `TrainingOptions`.
        settings: `DeviceSettings`.
        run: `RunDirectory`.
        strategy: `tf.distribute` strategy.
        collection: `Collection`.

    Returns:
        Why the run was stopped early, or None.
    """
    building.check_data(options, strategy, collection)
    # Decided before the model is made, for which all workers meet: later, one may see what another wrote.
    resumed = io.exists(run.checkpoint)
    progress = read_progress(run.checkpoint) if resumed else Progress()
    baseline = make_baseline(options, collection)
    while True:
        attempt = _Attempt(options, settings, run, strategy, collection, baseline, progress, resumed)
        attempt.fit()
        problem = attempt.keeper.failure or (attempt.monitor and attempt.monitor.problem)
        if not problem or options.on_divergence != "restart" or progress.restarts == RESTARTS:
            break
        resumed = attempt.keeper.failure is not None
        progress = attempt.keeper.progress if resumed else Progress()
        progress = progress._replace(restarts=attempt.progress.restarts + 1)
        rate = options.learning_rate * RESTART_FACTOR**progress.restarts
        print(f"note: {problem}; restarting once with learning rate {rate:g}.")
    return attempt.finish()


class _Attempt:
    """One model, trained through the epochs that are left."""

    def __init__(self, options, settings, run, strategy, collection, baseline, progress, resumed):
        self.options, self.run, self.progress = options, run, progress
        self._settings = settings
        self._strategy, self._collection = strategy, collection
        self._chief = strategies.is_chief(strategy)
        self._steps = steps_per_epoch(collection, options.split, options.batch_size)
        with strategy.scope():
            self._backbone = building.make_backbone(options)
            logits = baseline.logits if options.class_prior else None
            self._model = building.make_model(options, len(collection.class_names), self._backbone, logits)
            factor = RESTART_FACTOR**progress.restarts
            total_steps = self._steps * options.passes
            building.compile_model(self._model, options, settings, self._backbone, total_steps, factor)
        shapes = building.batch_shapes(options, collection, strategy)
        strategies.prepare_model(self._model, strategy, shapes)
        self.monitor = baseline and callbacks.LearningMonitor(
            baseline,
            steps_per_epoch=self._steps,
            epochs=options.passes,
            watch_map=options.strategy != "multi_worker",  # only the chief measures it, and all must agree
            stops=options.on_divergence == "stop"
            or (options.on_divergence == "restart" and progress.restarts < RESTARTS),
        )
        self.keeper = callbacks.StateKeeper(
            run.checkpoint,
            steps_per_epoch=self._steps,
            save_steps=options.checkpoint_steps,
            writes=self._chief,
            monitor=self.monitor,
        )
        self.keeper.set_model(self._model)
        self._begin(resumed)

    def _begin(self, resumed):
        """Restores the saved state, or clears the run directory for a new one."""
        if self._chief:
            self.run.begin()
        if resumed:
            self.keeper.restore()
            self.keeper.progress = self.keeper.progress._replace(restarts=self.progress.restarts)
            epoch, step = self.keeper.progress.epoch, self.keeper.progress.step
            print(f"Resuming {self.run.path} after epoch {epoch}, step {step}.")
            return
        if self._chief:
            self.run.clear()
            content = describe(self.options, self._settings, self._collection, self._model, self._strategy)
            io.write_json(self.run.config, {**content, **self.run.data})
        self.keeper.progress = self.progress
        self.keeper.save()

    def fit(self):
        """Trains until the last epoch, or until a callback stops it, maybe before a kill."""
        if self.monitor and self.monitor.stopped:
            return
        listeners = make_callbacks(self.options, self.run, self._collection) if self._chief else []
        watching = [self.monitor] if self.monitor else []
        for start, last in spans(self.keeper.progress, self.options.passes):
            steps = self._steps - start.step
            self._model.steps_per_execution = self._settings.steps_at_once(steps)
            self._model.make_train_function(force=True)
            with _small_images_named(self.options):
                self._model.fit(
                    building.make_dataset(
                        self.options, self._collection, self._backbone.pad_value, self._strategy, start
                    ),
                    initial_epoch=start.epoch,
                    epochs=last,
                    steps_per_epoch=steps,
                    callbacks=[*listeners, *watching, self.keeper],
                    verbose=1 if self._chief and on_terminal() else 0,
                    shuffle=False,
                )
            if self._model.stop_training:
                break

    def finish(self):
        """Writes the model and the result; gives the reason why the run was stopped early, or None."""
        problem = self.monitor and self.monitor.problem
        failure = self.keeper.failure
        if problem and self.options.on_divergence == "stop":
            failure = failure or f"Stopped: {problem}. {_REMEDY}"
        elif problem and not failure:
            print(f"warning: The network has not learned: {problem}. {_REMEDY}", file=sys.stderr)
        if self._chief:
            save(self.run, self._model, self.keeper, self.monitor, failure)
            if not failure:
                self.run.publish()
        return failure


_REMEDY = "Try a lower --learning_rate or more --epochs, and check the tags or masks."


@contextlib.contextmanager
def _small_images_named(options: TrainingOptions) -> Iterator[None]:
    """Turns the error of a convolution that its map is too small for into a line about the images."""
    try:
        yield
    except ValueError as error:
        if "Negative dimension size" not in str(error):
            raise
        view = f", --view_scale {options.view_scale:g}" if options.view_scale else ""
        raise UserError(
            f"--image_size {options.image_size}{view} is too small for --backbone {options.backbone}: one of "
            "its maps has fewer cells than a convolution needs. Take larger ones, with --overwrite."
        ) from error


def spans(progress: Progress, epochs: int) -> Iterator[tuple[Progress, int]]:
    """`(start, last epoch)` of each call of `fit` that is left: an interrupted epoch, then the others."""
    if progress.step:
        yield progress, progress.epoch + 1
        progress = progress._replace(epoch=progress.epoch + 1, step=0)
    if progress.epoch < epochs:
        yield progress, epochs


def on_terminal() -> bool:
    """Whether the output is a terminal, which gets a progress bar; a log file gets lines."""
    return sys.stdout.isatty()


def make_baseline(options: TrainingOptions, collection: Collection) -> Any:
    """What constant predictions reach on the targets of the model, or None for pairs of pixels.

    Raises:
        UserError: every image has the same tags, from which nothing can be learned.
    """
    if options.is_affinity_model:
        return None
    if options.learns_from_masks:
        return constant_labels(collection, options.split)
    baseline = constant_scores(collection, options.split)
    if baseline.same_tags and options.on_divergence != "continue":
        raise UserError(
            f"Every image of split {options.split} has the same tags ({', '.join(baseline.same_tags)}), with "
            "nothing to tell apart. Add images without them, or pass --on_divergence continue."
        )
    return baseline


def make_evaluator(options: TrainingOptions, collection: Collection) -> Any:
    """The function of the model that evaluates it after each epoch, or None."""
    if not options.measures:
        return None
    sides = (smallest_side(options.image_size, options.long_side), LONGEST_EVALUATED)
    if options.model == "deeplab":
        if not collection.has_masks:
            return None
        return SegmentationEvaluator(collection, options.val_split, limit=options.val_images, sides=sides)
    return CamEvaluator(
        collection,
        options.val_split,
        limit=options.val_images,
        threshold=options.background_threshold,
        cam="cam" if options.model == "classifier" else "refined_cam",
        sides=sides,
    )


def is_evaluated_after(epoch: int, *, epochs: int, steps: int) -> bool:
    """Whether the model is evaluated after an epoch: after the last one, and often enough before.

    An evaluation costs as much as many steps. The epochs of small collections have few, so that not each is
    followed by one; but the evaluations are at most `EVALUATED_STEPS` apart, or at least ten.

    Args:
        epoch: from 0.
        epochs: of the whole run.
        steps: of an epoch.

    Example:
        >>> print(*(epoch for epoch in range(45) if is_evaluated_after(epoch, epochs=45, steps=4)))
        3 7 11 15 19 23 27 31 35 39 43 44
    """
    interval = max(1, min(EVALUATED_STEPS // steps, epochs // 10))
    return (epoch + 1) % interval == 0 or epoch + 1 == epochs


def make_callbacks(
    options: TrainingOptions, run: RunDirectory, collection: Collection
) -> list[keras.callbacks.Callback]:
    """The callbacks that record a run, in the order in which they see the logs."""
    evaluator = make_evaluator(options, collection)
    steps = steps_per_epoch(collection, options.split, options.batch_size)
    is_due = functools.partial(is_evaluated_after, epochs=options.passes, steps=steps)
    return [
        *([callbacks.Validation(evaluator, is_due)] if evaluator else []),
        callbacks.HistoryFile(run.history),
        callbacks.Summaries(run.tensorboard, evaluator.pictures if evaluator else None, is_due),
        *([] if on_terminal() else [callbacks.PlainProgress(interval=options.progress_seconds)]),
    ]


def save(
    run: RunDirectory,
    model: keras.Model,
    keeper: callbacks.StateKeeper,
    monitor: callbacks.LearningMonitor | None,
    failure: str | None,
) -> None:
    """Writes the model, without its optimizer and strategy, and how the run ended.

    Args:
        run: `RunDirectory`.
        model: the trained model.
        keeper: `StateKeeper`.
        monitor: `LearningMonitor`, or None of models of pairs of pixels.
        failure: why the run was stopped early, or None.
    """
    plain = type(model).from_config(model.get_config())
    plain.set_weights(model.get_weights())
    save_model(plain, run.model)
    rows = callbacks.read_history(run.history)
    io.write_json(
        run.result,
        {
            "status": "stopped" if failure else "finished",
            "reason": failure,
            "restarts": keeper.progress.restarts,
            "learned": monitor and monitor.learned,
            "best_val_map": monitor and monitor.best_map,
            "steps": keeper.progress.epoch * keeper.steps_per_epoch + keeper.progress.step,
            "last_epoch": rows[-1] if rows else {},
        },
    )
