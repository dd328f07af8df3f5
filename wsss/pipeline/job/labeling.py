"""A pseudo-label job: open the inputs, plan, run the graph wave by wave, summarize."""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import apache_beam as beam

from wsss.common.errors import UserError
from wsss.pipeline import progress
from wsss.pipeline.graph import LabelShards, WriteSettings
from wsss.pipeline.graph_runner import GraphRunner
from wsss.pipeline.job.calibration import Calibration, keep_calibration
from wsss.pipeline.job.choices import Sampler, choose
from wsss.pipeline.job.inputs import open_inputs
from wsss.pipeline.job.settings import resolve
from wsss.pipeline.job.unfinished import UnfinishedJob
from wsss.pipeline.options import AUTO, LabelOptions
from wsss.pipeline.output import LabelSettings, Layout, open_output
from wsss.pipeline.plan import plan_job, record_files, waves
from wsss.pipeline.runner import (
    check_detach,
    check_paths,
    images_in_a_wave,
    is_local,
    repeats_bundles,
    runs_nothing,
)
from wsss.pipeline.stages.manifest import written_files
from wsss.pipeline.stages.read import InputShard
from wsss.pipeline.summary import LabelResult
from wsss.pipeline.trained_run import open_trained_run

logger = logging.getLogger(__name__)


def make_pseudo_labels(
    options: LabelOptions, beam_argv: Sequence[str] = (), announce: Callable[[str], None] = logger.info
) -> LabelResult:
    """Labels all shards that are not finished yet, and writes the results of all.

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
    model, output, threshold = settings.model, settings.output, settings.threshold
    if threshold.note:
        announce(threshold.note)
    instead = _check_flags(settings, beam_argv)
    inputs = open_inputs(model, settings.images, settings.cams, settings.affinity_model, output.path)
    made_with = LabelSettings(
        output.recorded, model.model_hash, inputs.class_names, inputs.affinity_model_hash
    )
    folder = open_output(
        output.path,
        made_with,
        inputs=(inputs.data, model.folder),
        overwrite=output.overwrite,
        written=written_files,
    )
    if settings.detach and folder.replaces:
        raise UserError("`--detach` goes with a new output, not with `--overwrite`. Name another `--output`.")
    layout, shards = Layout.of(folder), inputs.images.shards
    plan = plan_job(shards, layout)
    if plan.finished:
        announce(f"{plan.finished} of {len(shards)} shards are done already.")
    graphs = GraphRunner(inputs.images, layout, beam_argv)
    cams = replace(settings.cams, collection=inputs.images.collection)
    refinement, choice = choose(
        threshold.rule,
        replace(settings.refinement, affinity_predictor=inputs.affinity_predictor),
        Sampler(graphs, cams),
        layout,
        announce,
    )
    files = record_files(inputs.images, settings.images.split) if output.format == "tfrecord" else None
    pictures = math.ceil(
        settings.images.previews / max(1, len(shards))
    )  # of all shards: as many as asked for
    writing = WriteSettings(
        *(layout, len(inputs.class_names) + 1, files, output.scores, pictures),
        repeats=repeats_bundles(beam_argv),
    )
    make_graph = functools.partial(LabelShards, cams, refinement, writing)
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
        return _detach(graphs.start(plan.todo, make_graph()), output.path, constant, announce)
    label_shards(plan.todo, make_graph, settings.images_per_wave, graphs)
    if instead:
        line = f"This was {instead}; no image is labeled"
        return LabelResult(output.path, 0, 0, None, constant, line, ())
    result = job.summarize(layout, made_with, choice)
    folder.publish()
    return replace(result, output=output.path)


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
        "model": settings.model.model_path,
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
) -> None:
    """Runs the graph on shards, a wave of them in each pipeline, and shows the progress.

    Args:
        shards: to be labeled.
        make_graph: makes the transform of a pipeline, such as `LabelShards`.
        images_per_wave: images in a wave, about; 0 takes what suits the runner.
        graphs: runs a graph on shards.
    """
    size = images_in_a_wave(graphs.beam_argv, images_per_wave)
    with progress.shown(sum(shard.images for shard in shards)) as bar:
        for wave in waves(shards, size):
            before = bar.n
            with progress.listen(bar.update):
                graphs.run(wave, make_graph())
            bar.update(before + sum(shard.images for shard in wave) - bar.n)
