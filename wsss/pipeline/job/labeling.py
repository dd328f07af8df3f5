"""A pseudo-label job: open the inputs, plan, run the graph wave by wave, summarize."""

import functools
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import apache_beam as beam

from wsss.common.errors import UserError
from wsss.common.output_folder import same_place
from wsss.pipeline.execution import measures, progress
from wsss.pipeline.execution.graph_runner import GraphRunner
from wsss.pipeline.execution.runner import (
    check_detach,
    check_paths,
    for_accelerators,
    images_in_a_wave,
    is_local,
    repeats_bundles,
    runs_nothing,
)
from wsss.pipeline.graph import LabelShards, WriteSettings
from wsss.pipeline.job.calibration import Calibration, keep_calibration
from wsss.pipeline.job.choices import Sampler, choose
from wsss.pipeline.job.inputs import open_inputs
from wsss.pipeline.job.score_folder import ScoreFolder, reusable_scores
from wsss.pipeline.job.settings import JobSettings, resolve
from wsss.pipeline.job.sources import ScoreSources
from wsss.pipeline.job.unfinished import UnfinishedJob
from wsss.pipeline.options import AUTO, LabelOptions
from wsss.pipeline.output import LabelSettings, Layout, open_output
from wsss.pipeline.plan import plan_job, record_files, waves
from wsss.pipeline.stages.manifest import written_files
from wsss.pipeline.stages.read import InputShard
from wsss.pipeline.summary import LabelResult
from wsss.pipeline.trained_run import open_trained_run

logger = logging.getLogger(__name__)


def make_pseudo_labels(
    options: LabelOptions, beam_argv: Sequence[str] = (), announce: Callable[[str], None] = logger.info
) -> LabelResult:
    """Labels all shards that are not finished yet, and writes the results of all.

    Where `--overwrite` replaces labels with scores, and only what masks are made with has changed, they are
    made from those scores, without inference.

    Args:
        options: `LabelOptions`.
        beam_argv: Beam's flags.
        announce: function of a line of text, called with what is known before the long work begins.

    Returns:
        `LabelResult`.

    Raises:
        UserError: the inputs or the output folder cannot be used.
    """
    settings = resolve(options, open_trained_run(options.model))
    return carry_out(settings, reusable_scores(settings), beam_argv, announce)


def carry_out(
    settings: JobSettings,
    scores: ScoreFolder | None,
    beam_argv: Sequence[str],
    announce: Callable[[str], None],
) -> LabelResult:
    """Carries out a job: see `make_pseudo_labels`.

    Args:
        settings: of the job.
        scores: those of the model that are stored, or None.
        beam_argv, announce: see `make_pseudo_labels`.

    Raises:
        UserError: the inputs or the output folder cannot be used, or there are no scores of all shards.
    """
    model, output, threshold = settings.model, settings.output, settings.threshold
    if threshold.note:
        announce(threshold.note)
    if settings.cams.resource_hints:
        beam_argv = for_accelerators(beam_argv)
    instead = _check_flags(settings, beam_argv)
    inputs = open_inputs(settings, scores)
    made_with = LabelSettings(
        output.recorded, model.model_hash, inputs.class_names, inputs.affinity_model_hash
    )
    shards = inputs.images.shards
    sources = ScoreSources.of(settings, inputs, scores)
    folder = open_output(
        output.path,
        made_with,
        inputs=(inputs.data, *_results_read(settings)),
        overwrite=output.overwrite,
        written=written_files,
    )
    if settings.detach and folder.replaces:
        raise UserError("`--detach` goes with a new output, not with `--overwrite`. Name another `--output`.")
    layout = Layout.of(folder)
    plan = plan_job(shards, layout)
    if plan.finished:
        announce(f"{plan.finished} of {len(shards)} shards are done already.")
    graphs = GraphRunner(inputs.images, layout, beam_argv)
    if scores and not settings.labels:
        announce(_reuse(scores, sources, plan, output.scores))
    refinement, choice = choose(
        threshold.rule,
        replace(settings.refinement, affinity_predictor=inputs.affinity_predictor),
        Sampler(graphs, sources.of_all(shards)),
        layout,
        announce,
    )
    files = record_files(inputs.images, settings.images.split) if output.format == "tfrecord" else None
    pictures = math.ceil(settings.images.previews / max(1, len(shards)))  # of each shard, at least
    writing = WriteSettings(
        *(layout, len(inputs.class_names) + 1, files, output.scores, pictures),
        repeats=repeats_bundles(beam_argv),
    )
    constant = refinement.background.threshold
    job = UnfinishedJob(tuple(shard.name for shard in shards), inputs.images.name, threshold.rule, constant)
    if threshold.is_kept and constant is not None:
        found = Calibration(
            model.model_hash, threshold.cam, constant, settings.images.data, settings.images.split
        )
        keep_calibration(model, found, announce)
    if not is_local(beam_argv):
        job.keep(layout)
    if settings.detach and plan.todo:
        graph = LabelShards(sources.of_all(plan.todo), refinement, writing)
        return _detach(graphs.start(plan.todo, graph), output.path, constant, announce)
    seconds: Counter[str] = Counter()
    for source, todo in sources.divide(plan.todo):
        make_graph = functools.partial(LabelShards, source, refinement, writing)
        seconds += label_shards(todo, make_graph, settings.images_per_wave, graphs)
    if seconds:
        announce(measures.describe_seconds(seconds))
    if instead:
        line = f"This was {instead}; no image is labeled"
        return LabelResult(output.path, 0, 0, None, constant, line, ())
    result = job.summarize(layout, made_with, choice)
    folder.publish()
    return replace(result, output=output.path)


def _results_read(settings):
    """The folders of earlier results that a job reads, which its output must not touch."""
    if not settings.labels:
        return [settings.model.folder]
    return [] if same_place(settings.labels, settings.output.path) else [settings.labels]


def _reuse(scores, sources, plan, are_kept):
    """Says which masks are made from scores that are there."""
    reused = sum(shard.name in sources.names for shard in plan.todo)
    line = (
        f"{reused} of {len(plan.todo)} shards are labeled from the scores in {scores.path}, not by the model."
    )
    return line if are_kept else f"{line} The scores go with the old labels; `--save_scores` keeps them."


def _detach(job, output, threshold, announce):
    """Says what a user needs to know about a job that is left to itself; the result, of no image yet."""
    announce(f"The job {job.id} runs. {job.page}".rstrip())
    announce(f"To stop it: {job.stop_command or 'cancel it on the cluster'}.")
    announce(f"When it has ended, `python -m wsss.report {output}` gathers its results.")
    return LabelResult(output, 0, 0, None, threshold, f"Left the job {job.id}", ())


def _check_flags(settings, beam_argv):
    """Checks a job against Beam's flags; returns what they ask for in place of a run, see `runs_nothing`."""
    instead = runs_nothing(beam_argv)
    if instead and (settings.refinement.stages == AUTO or settings.threshold.rule == "auto"):
        raise UserError(
            f"`auto` is chosen in a job of its own, before {instead}. Name the threshold and the refinement."
        )
    if settings.detach:
        check_detach(beam_argv)
    paths = {
        **({"labels": settings.labels} if settings.labels else {"model": settings.model.model_path}),
        "affinity_model": settings.affinity_model,
        "data": settings.images.data,
        "output": settings.output.path,
    }
    check_paths(beam_argv, paths)
    return instead


def label_shards(
    shards: Sequence[InputShard],
    make_graph: Callable[[], beam.PTransform],
    images_per_wave: int,
    graphs: GraphRunner,
) -> Counter[str]:
    """Runs the graph on shards, a wave of them in each pipeline, and shows the progress.

    Args:
        shards: to be labeled.
        make_graph: makes the transform of a pipeline, such as `LabelShards`.
        images_per_wave: images in a wave, about; 0 takes what suits the runner.
        graphs: runs a graph on shards.

    Returns:
        Seconds of the workers by step, of a job on this machine; those of a cluster stand on its pages.
    """
    seconds: Counter[str] = Counter()
    size = images_in_a_wave(graphs.beam_argv, images_per_wave)
    with progress.shown(sum(shard.images for shard in shards)) as bar:
        for wave in waves(shards, size):
            before = bar.n
            with progress.listen(bar.update):
                result = graphs.run(wave, make_graph())
            bar.update(before + sum(shard.images for shard in wave) - bar.n)
            if is_local(graphs.beam_argv):
                seconds += measures.seconds_of(result)
    return seconds
