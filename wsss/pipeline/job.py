"""A pseudo-label job: open the inputs, plan, run the graph wave by wave, summarize."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Sequence

import apache_beam as beam

from wsss.common import io
from wsss.common.errors import UserError
from wsss.pipeline import progress
from wsss.pipeline.calibration import Calibration, calibrated_threshold, keep_calibration
from wsss.pipeline.graph import LabelShards, WriteSettings
from wsss.pipeline.inputs import Inputs, open_inputs
from wsss.pipeline.options import ADAPTATION, AUTO, Options, resolve
from wsss.pipeline.output import LabelSettings, Layout, open_output
from wsss.pipeline.plan import Plan, plan_job, record_files, remove_retired, waves
from wsss.pipeline.runner import check_paths, images_in_a_wave, make_pipeline, run, runs_nothing
from wsss.pipeline.stages.manifest import read_manifests, written_files
from wsss.pipeline.stages.predict import CamModelHandler, CamSettings
from wsss.pipeline.stages.read import InputShard, open_images, sample
from wsss.pipeline.stages.refine import Background, RefinementSettings
from wsss.pipeline.stages.refinement_choice import CANDIDATES, ChooseRefinement, RefinementChoice
from wsss.pipeline.stages.threshold import ChooseThreshold, read_threshold
from wsss.pipeline.summary import LabelResult, write_results
from wsss.pipeline.trained_run import TrainedRun, open_trained_run

logger = logging.getLogger(__name__)

_SAMPLE = 256  # images from which `--background_threshold auto` chooses
_REFINED_SAMPLE = 64  # images that `--refine auto` tries each refinement on


def make_pseudo_labels(
    options: Options, beam_argv: Sequence[str] = (), announce: Callable[[str], None] = logger.info
) -> LabelResult:
    """Labels all shards that are not finished yet, and writes the results of all.

    Args:
        options: `Options`.
        beam_argv: Beam's flags.
        announce: function of a line of text, called with what is known before the long work begins.

    Returns:
        `LabelResult`.

    Raises:
        UserError: the inputs or the output folder cannot be used.
    """
    model = open_trained_run(options.model)
    options = resolve(options, model)
    rule = options.background_threshold
    if rule == "calibrated":
        known = calibrated_threshold(model, options.cam)
        announce(known.line)
        options = dataclasses.replace(options, background_threshold=known.threshold)
        if options.threshold_adaptation is None:
            weight = ADAPTATION if known.is_calibrated else 0.0
            options = dataclasses.replace(options, threshold_adaptation=weight)
    instead = runs_nothing(beam_argv)
    if instead and (options.refine == AUTO or options.background_threshold == "auto"):
        raise UserError(
            f"`auto` is chosen in a job of its own, before {instead}. Name the threshold and the refinement."
        )
    paths = {"model": model.model_path, "affinity_model": options.affinity_model}
    check_paths(beam_argv, {**paths, "data": options.data, "output": options.output})
    images = open_images(
        options.data,
        options.split,
        images_per_shard=options.images_per_shard,
        previews=options.previews,
        leave_out=options.output,
    )
    inputs = open_inputs(
        model,
        images,
        data=options.data,
        image_labels=options.image_labels,
        predictor=options.predictor,
        affinity_model=options.affinity_model,
        max_side=options.max_side,
    )
    settings = LabelSettings(
        options.recorded(), model.model_hash, inputs.class_names, inputs.affinity_model_hash
    )
    data = images.collection.directory if images.collection else options.data
    folder = open_output(
        options.output,
        settings,
        inputs=(data, model.folder),
        overwrite=options.overwrite,
        written=written_files,
    )
    layout = Layout.of(folder)
    plan = plan_job(images.shards, layout)
    if plan.finished:
        announce(f"{plan.finished} of {len(images.shards)} shards are done already.")
    threshold, choice = _label(options, inputs, plan, layout, beam_argv, announce)
    if instead:
        return LabelResult(
            options.output, 0, 0, None, threshold, f"This was {instead}; no image is labeled", ()
        )
    manifests = read_manifests(layout)
    remove_retired(layout, manifests.values())
    in_order = [manifests[shard.name] for shard in images.shards]
    result = write_results(
        layout, in_order, settings, name=images.name, threshold=threshold, rule=rule, choice=choice
    )
    folder.publish()
    if rule == "auto" and threshold is not None and _labels_training_images(options, model):
        found = Calibration(model.model_hash, options.cam, threshold, options.data, options.split)
        keep_calibration(model, found, announce)
    return dataclasses.replace(result, output=options.output)


def _labels_training_images(options: Options, model: TrainedRun) -> bool:
    """Whether the split that the model was trained on is labeled, by its tags."""
    return options.image_labels == "truth" and options.split == (model.split or "train")


def _label(
    options: Options,
    inputs: Inputs,
    plan: Plan,
    layout: Layout,
    beam_argv: Sequence[str],
    announce: Callable[[str], None],
) -> tuple[float | None, RefinementChoice | None]:
    """Carries out a plan.

    Returns:
        `(threshold, choice)`: score of the background, or None where it is no constant; what `--refine auto`
        chose, or None without it.
    """
    images, model = inputs.images, inputs.model
    hints = {"accelerator": options.accelerator} if options.accelerator else {}
    cams = CamSettings(
        CamModelHandler(model.model_path, model.model_hash, options.predictor, hints),
        images.collection,
        image_labels=options.image_labels,
        label_threshold=options.label_threshold,
        batch_size=options.max_batch_size,
    )
    threshold = options.background_threshold
    if isinstance(threshold, str):
        threshold = choose_threshold(images.shards, cams, layout.path("threshold.json"), beam_argv)
        announce(f"Background threshold chosen from the images: {threshold:.2f}.")
    refinement = RefinementSettings(
        options.refine,
        Background(threshold, options.background_alpha, options.threshold_adaptation or 0.0),
        options.crf_preset,
        options.crf_unary,
        affinity_predictor=inputs.affinity_predictor(options.max_side),
        walk_beta=options.walk_beta,
        walk_steps=options.walk_steps,
        write=options.write,
    )
    choice = None
    if options.refine == AUTO:
        choice = choose_refinement(images.shards, cams, refinement, layout.path("refinement.json"), beam_argv)
        announce(f"Refinement chosen from the images: {choice.chosen}; {choice.reason}.")
        refinement = dataclasses.replace(refinement, stages=choice.stages)
    writing = WriteSettings(
        layout,
        len(inputs.class_names) + 1,
        record_files(images, options.split) if options.output_format == "tfrecord" else None,
        options.save_scores,
    )
    make_graph = functools.partial(LabelShards, cams, refinement, writing)
    label_shards(plan.todo, make_graph, options.images_per_wave, beam_argv)
    return threshold, choice


def label_shards(
    shards: Sequence[InputShard],
    make_graph: Callable[[], beam.PTransform],
    images_per_wave: int,
    beam_argv: Sequence[str],
) -> None:
    """Runs the graph on shards, a wave of them in each pipeline, and shows the progress.

    Args:
        shards: to be labeled.
        make_graph: makes the transform of a pipeline, such as `LabelShards`.
        images_per_wave: images in a wave, about; 0 takes what suits the runner.
        beam_argv: Beam's flags.
    """
    size = images_in_a_wave(beam_argv, images_per_wave)
    with progress.shown(sum(shard.images for shard in shards)) as bar:
        for wave in waves(shards, size):
            before = bar.n
            with progress.listen(bar.update):
                run_graph(wave, make_graph(), beam_argv)
            bar.update(before + sum(shard.images for shard in wave) - bar.n)


def choose_threshold(
    shards: Sequence[InputShard], cams: CamSettings, path: str, beam_argv: Sequence[str]
) -> float:
    """The background threshold of a collection from a sample of its images; kept in the file at `path`."""
    if not io.exists(path):
        run_graph(sample(shards, _SAMPLE), ChooseThreshold(cams, path), beam_argv)
    return read_threshold(path)


def choose_refinement(
    shards: Sequence[InputShard],
    cams: CamSettings,
    settings: RefinementSettings,
    path: str,
    beam_argv: Sequence[str],
) -> RefinementChoice:
    """The refinement of a collection from a sample of its images; kept in the file at `path`.

    A random walk is tried where there is a network for it.
    """
    if not io.exists(path):
        candidates = {
            name: dataclasses.replace(settings, stages=stages)
            for name, stages in CANDIDATES.items()
            if "walk" not in stages or settings.affinity_predictor
        }
        run_graph(sample(shards, _REFINED_SAMPLE), ChooseRefinement(cams, candidates, path), beam_argv)
    return RefinementChoice.from_json(io.read_json(path), path)


def run_graph(shards: Iterable[InputShard], graph: beam.PTransform, beam_argv: Sequence[str]) -> None:
    """Runs one pipeline to its end."""
    pipeline = make_pipeline(beam_argv)
    _ = pipeline | beam.Create(list(shards), reshuffle=True) | graph
    run(pipeline)
