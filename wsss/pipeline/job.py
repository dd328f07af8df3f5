"""The job of the program: which shards are to be done, wave by wave, and what came of all."""

import sys

from wsss.common import io
from wsss.common.errors import UserError
from wsss.common.tf_import import import_tensorflow
from wsss.pipeline.output import Layout
from wsss.pipeline.summary import write_results
from wsss.pipeline.trained_run import open_run

_SAMPLE = 256  # images from which `--background_threshold auto` chooses


def make_pseudo_labels(options, run, beam_argv=()):
    """Labels the shards that are not done, wave by wave, and writes the results of all.

    Args:
        options: `Options`.
        run: `Run`.
        beam_argv: Beam's flags.

    Returns:
        The program's exit code.
    """
    from wsss.inference.predictor import cached_predictor
    from wsss.pipeline.graph import LabelShards
    from wsss.pipeline.runner import is_local
    from wsss.pipeline.stages.read import open_source

    source = open_source(
        options.data,
        options.split,
        images_per_shard=options.images_per_shard,
        previews=options.previews,
        leave_out=options.output,
    )
    _check_source(source, run, options)
    import_tensorflow()
    predictor = cached_predictor(run.model_path, run.model_hash, options.predictor)
    class_names = _class_names(source, run, predictor.classes, options)
    layout = Layout(options.output)
    affinity = _open_affinity(options)
    settings = {"options": options.recorded(), "model_hash": run.model_hash, "class_names": list(class_names)}
    settings["affinity_model_hash"] = affinity and affinity.model_hash
    _prepare_output(layout, settings, options.overwrite)

    done = {shard: manifest["source"] for shard, manifest in layout.read_manifests().items()}
    todo = [shard for shard in source.shards if done.get(shard.name) != shard.source]
    skipped = len(source.shards) - len(todo)
    if skipped:
        print(f"{skipped} of {len(source.shards)} shards are done already.")
    handler = _handler(options, run)
    threshold = options.background_threshold
    if threshold == "auto":
        threshold = _choose_threshold(source, layout, handler, options, beam_argv)
        print(f"Background threshold chosen from the images: {threshold:.2f}.")

    def make_label():
        """A `LabelShards`; Beam binds a transform to the pipeline that it is first applied in."""
        return LabelShards(
            source.collection,
            layout,
            handler,
            image_labels=options.image_labels,
            label_threshold=options.label_threshold,
            stages=_stages(options, threshold, affinity),
            classes=len(class_names) + 1,
            record_files=_record_files(source, options) if options.output_format == "tfrecord" else None,
            save_scores=options.save_scores,
            batch_size=options.max_batch_size,
            reshuffle=not (is_local(beam_argv) or {"pamr", "walk"} & set(options.refine)),
        )

    _run_waves(todo, make_label, options, beam_argv)
    results = write_results(layout, source, settings, threshold)
    return _report(results, options)


def _open_affinity(options):
    """The run of `--affinity_model`, or None. Its model is loaded here, so that a wrong one stops the job."""
    from wsss.inference.predictor import cached_relation_predictor

    if not options.affinity_model:
        return None
    run = open_run(options.affinity_model)
    try:
        cached_relation_predictor(run.model_path, run.model_hash, options.max_side)
    except UserError as error:
        raise UserError(f"`--affinity_model {options.affinity_model}`: {error}") from error
    return run


def _run_waves(todo, make_label, options, beam_argv):
    """Runs the graph on the shards, as many at a time as a wave holds, and shows how far it is."""
    import apache_beam as beam

    from wsss.pipeline import progress
    from wsss.pipeline.runner import make_pipeline

    with progress.shown(sum(shard.images for shard in todo)) as bar:
        for wave in _waves(todo, options.images_per_wave, beam_argv):
            before = bar.n
            with progress.listen(bar.update), make_pipeline(beam_argv) as pipeline:
                _ = pipeline | beam.Create(wave, reshuffle=True) | make_label()
            bar.update(before + sum(shard.images for shard in wave) - bar.n)


def _choose_threshold(source, layout, handler, options, beam_argv):
    """The background's score for this collection, from a sample of it; kept in `threshold.json`."""
    import apache_beam as beam

    from wsss.pipeline.runner import make_pipeline
    from wsss.pipeline.stages.read import sample
    from wsss.pipeline.stages.threshold import ChooseThreshold, read_threshold

    path = layout.path("threshold.json")
    if not io.exists(path):
        with make_pipeline(beam_argv) as pipeline:
            _ = (
                pipeline
                | beam.Create(sample(source.shards, _SAMPLE), reshuffle=True)
                | ChooseThreshold(
                    source.collection,
                    path,
                    handler,
                    image_labels=options.image_labels,
                    label_threshold=options.label_threshold,
                    batch_size=options.max_batch_size,
                )
            )
    return read_threshold(path)


def _handler(options, run):
    from wsss.pipeline.stages.predict import CamModelHandler

    hints = {"accelerator": options.accelerator} if options.accelerator else {}
    return CamModelHandler(run.model_path, run.model_hash, options.predictor, hints)


def _stages(options, threshold, affinity):
    """What is done to the CAMs of an image, one PTransform after the other."""
    from wsss.pipeline.stages import refine

    background = refine.Background(threshold, options.background_alpha)
    stages = [refine.MergeScales()]
    if "pamr" in options.refine:
        stages.append(refine.RefinePAMR())
    if "walk" in options.refine:
        predictor = (affinity.model_path, affinity.model_hash, options.max_side)
        stages.append(refine.RefineWalk(background, predictor, options.walk_beta, options.walk_steps))
    if "crf" in options.refine:
        iterations = 1 if "walk" in options.refine else None  # one after the walk, as published
        stages.append(refine.RefineCRF(background, options.crf_preset, options.crf_unary, iterations))
    if options.write == "affinity_labels":
        return [*stages, refine.LabelAffinity(options.crf_preset)]
    if options.write == "irn_labels":
        return [*stages, refine.LabelIRN(options.crf_preset)]
    return [*stages, refine.LabelPixels(background)]


def _waves(shards, images_per_wave, beam_argv):
    """Groups shards: on this machine into waves, each of which bounds memory and marks progress."""
    from wsss.pipeline.runner import is_local

    if not is_local(beam_argv):
        images_per_wave = float("inf")
    elif not images_per_wave:
        images_per_wave = 2048 if any("multi_processing" in flag for flag in beam_argv) else 256
    wave, images = [], 0
    for shard in shards:
        wave.append(shard)
        images += shard.images
        if images >= images_per_wave:
            yield wave
            wave, images = [], 0
    if wave:
        yield wave


def _record_files(source, options):
    """Name of each shard's TFRecord file."""
    from wsss.data.dataset import shard_name

    name = source.collection.name if source.collection else "pseudo_labels"
    shards = source.shards
    return {
        shard.name: shard_name(name, options.split, index, len(shards)) for index, shard in enumerate(shards)
    }


def _check_source(source, run, options):
    """Raises a `UserError` where the images lack tags, or have those of other classes than the model's."""
    if source.collection is None:
        if options.image_labels == "truth":
            raise UserError(
                f"{options.data} is a folder of images without tags: pass `--image_labels predicted`, or "
                "make a collection of images and tags with `python -m wsss.prepare`."
            )
    elif run.class_names and source.collection.class_names != run.class_names:
        raise UserError(
            f"The model was trained on other classes ({_listed(run.class_names)}) than {options.data} has "
            f"({_listed(source.collection.class_names)})."
        )


def _class_names(source, run, classes, options):
    """The foreground classes, by the collection, else by the run, else numbered; as many as the model's."""
    ours = source.collection.class_names if source.collection else ()
    names = ours or run.class_names or tuple(f"class_{index + 1}" for index in range(classes))
    if len(names) != classes:
        raise UserError(f"The model knows {classes} classes, {options.data} has {len(names)}.")
    return names


def _prepare_output(layout, settings, overwrite):
    """Clears the output folder, or sees that what lies there was made with the same settings."""
    if overwrite:
        layout.clear()
    layout.remove_unfinished()
    path = layout.path("options.json")
    if not io.exists(path):
        if layout.read_manifests():
            raise UserError(f"{layout.root} holds labels of unknown options. Pass `--overwrite`.")
        io.write_json(path, settings)
        return
    there = io.read_json(path)
    if there != settings:
        raise UserError(
            f"{layout.root} holds labels made with other options ({_difference(there, settings)}). Name "
            "another `--output`, or pass `--overwrite`."
        )


def _difference(there, here):
    there, here = ({**each["options"], **each} for each in (there, here))
    for name in sorted(here):
        if name != "options" and there.get(name) != here[name]:
            return f"{name} {there.get(name)} there, {here[name]} here"
    return "fewer"


def _report(results, options):
    """Prints what came of it; the exit code."""
    for warning in results.warnings:
        print("warning:", warning)
    print(results.line, "→", options.output)
    if results.failed:
        print(f"Why images failed stands in {io.join(options.output, 'errors.jsonl')}.")
    total = results.labelled + results.failed
    if total and results.failed / total > options.max_error_rate:
        print(
            f"error: {results.failed} of {total} images failed, more than --max_error_rate "
            f"{options.max_error_rate:g} allows; see errors.jsonl.",
            file=sys.stderr,
        )
        return 1
    return 0


def _listed(names, most=4):
    shown = ", ".join(names[:most])
    return f"{len(names)}: {shown}{', …' if len(names) > most else ''}"
