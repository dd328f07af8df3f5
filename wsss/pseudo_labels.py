"""From a trained model and a collection to pseudo labels: the program behind `pipelines/pseudo_labels.py`.

    python pipelines/pseudo_labels.py --model runs/seam-1 --data shards --output labels

The output folder:

    masks/ID.png       palette PNG, 0 background, 1..K class; or TFRecord shards that are a collection
    scores/ID.npz      with --save_scores: float16 scores of the classes present
    previews/ID.png    a few pictures to look at, gathered in report.html
    options.json       what the labels were made with; other options need another folder, or --overwrite
    manifests/         one file for each shard that is done; a second run skips these shards
    errors.jsonl       one line for each image that failed: id, stage, reason
    summary.json       counts, pixels of each class, hash of the model, every option
    metrics.json       where true masks are known: mIoU, IoU of each class, all thresholds
    report.html        all of it on one page
"""

import argparse
import dataclasses
import hashlib
import logging
import os
import sys
from dataclasses import dataclass

from tqdm import tqdm

from wsss import files
from wsss.errors import UserError, program
from wsss.layout import Layout
from wsss.results import write_results

REFINEMENTS = ("pamr", "walk", "crf")
CRF_PRESETS = ("seam", "irn", "ppc", "ppc_segmentation", "deeplab", "fast")  # those of wsss.refine.dense_crf
_SAMPLE = 256  # images from which `--background_threshold auto` chooses
_NOT_RECORDED = ("output", "overwrite", "images_per_wave", "max_error_rate", "accelerator")


@dataclass(frozen=True)
class Options:
    """The program's flags; `make_parser` says what each means."""

    model: str
    data: str
    split: str
    output: str
    scales: tuple[float, ...]
    mirror: bool
    cam: str
    max_side: int
    image_labels: str
    label_threshold: float
    background_threshold: float | str | None
    background_alpha: float | None
    refine: tuple[str, ...]
    crf_preset: str
    crf_unary: str
    affinity_model: str
    walk_beta: float
    walk_steps: int
    write: str
    output_format: str
    save_scores: bool
    previews: int
    max_batch_size: int
    images_per_shard: int
    images_per_wave: int
    max_error_rate: float
    overwrite: bool
    accelerator: str

    def __post_init__(self):
        if (self.background_threshold is None) == (self.background_alpha is None):
            raise UserError("Give one of `--background_threshold` and `--background_alpha`.")
        if self.write == "affinity_labels" and "crf" in self.refine:
            raise UserError("`--write affinity_labels` has a CRF of its own; leave crf out of `--refine`.")
        if ("walk" in self.refine) != bool(self.affinity_model):
            raise UserError("`--refine walk` and `--affinity_model` go together: give both or neither.")

    @property
    def predictor(self):
        """`(name, value)` pairs, the keyword arguments of `CamPredictor`."""
        return tuple((name, getattr(self, name)) for name in ("scales", "mirror", "cam", "max_side"))

    def recorded(self):
        """The options that the results depend on, as JSON gives them back."""
        values = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if name not in _NOT_RECORDED
        }


@dataclass(frozen=True)
class Run:
    """What was trained; what a lone `.keras` file does not tell is empty.

    Attributes:
        folder: of the model.
        model_path: the `.keras` file.
        model_hash: of its bytes.
        class_names: the foreground classes.
        data, split: what it was trained on.
    """

    folder: str
    model_path: str
    model_hash: str
    class_names: tuple[str, ...]
    data: str
    split: str


@program
def main(argv=None):
    """Makes pseudo labels; returns 1 when more images failed than `--max_error_rate` allows."""
    _quieten()
    from wsss.transforms.runner import split_arguments

    namespace, beam_argv = split_arguments(argv, make_parser())
    run = open_run(namespace.model)
    options = _fill_in(namespace, run)
    try:
        return make_pseudo_labels(options, run, beam_argv)
    except KeyboardInterrupt:
        print(f"Interrupted; finished shards in {options.output} are kept, the same command goes on.")
        return 130


def _quieten():
    """Leaves out what TensorFlow and Beam say about themselves in every run."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # heeded only before TensorFlow is imported
    # RunInference says so for each model loaded where torch is not installed; it means nothing for us.
    logging.getLogger().addFilter(lambda record: "Resource module is not available" not in str(record.msg))


def make_parser():
    """The parser of the program's own flags; Beam parses the rest."""
    parser = argparse.ArgumentParser(
        prog="pseudo_labels.py",
        description="Makes pseudo labels with a trained model: bare, with the newest run under ./runs, of "
        "the data that it was trained on. Beam's own flags (--runner, --direct_num_workers, …) may be added.",
        allow_abbrev=False,
    )
    group = parser.add_argument_group("what goes in and out")
    add = group.add_argument
    add("--model", default="", help="run directory or .keras file; default: the newest run under ./runs")
    add("--data", default="", help="collection, TFDS name or folder of images; default: the run's own")
    add("--split", default="", help="split of the collection; default: the one trained on")
    add("--output", default="", help="folder, local or gs://; default: pseudo_labels/SPLIT beside the model")
    add(
        "--output_format",
        choices=("png", "tfrecord"),
        default="png",
        help="a PNG a mask (default), or shards",
    )
    add("--save_scores", action="store_true", help="write the scores of the present classes too, float16")
    add("--previews", type=_natural, default=12, help="pictures for report.html, default 12")

    group = parser.add_argument_group("class activation maps")
    add = group.add_argument
    add("--scales", type=_scales, default=(0.5, 1.0, 1.5, 2.0), help="sizes seen, default 0.5,1,1.5,2")
    add("--no_mirror", dest="mirror", action="store_false", help="do not look at mirrored images")
    add(
        "--cam",
        choices=("refined_cam", "cam"),
        default="refined_cam",
        help="map read out; default refined_cam",
    )
    add(
        "--max_side",
        type=_natural,
        default=1024,
        help="pixels; larger images are shrunk, default 1024, 0 = never",
    )

    group = parser.add_argument_group("masks")
    add = group.add_argument
    add(
        "--image_labels",
        choices=("truth", "predicted"),
        default="truth",
        help="classes of an image: the collection's tags (default), or what the classifier finds",
    )
    add("--label_threshold", type=_share, default=0.5, help="least score of a predicted class, default 0.5")
    add(
        "--background_threshold",
        type=_share_or_auto,
        help="score of the background, in [0, 1], default 0.2; auto: the mean of the strongest class scores",
    )
    add("--background_alpha", type=_positive, help="in its place: exponent of (1 - max score)^alpha, > 0")
    add("--refine", type=_refinements, default=(), help="none (default), or some of pamr,walk,crf in order")
    add("--crf_preset", choices=CRF_PRESETS, help="constants of the CRF; default: ppc, or seam with an alpha")
    add(
        "--crf_unary",
        choices=("labels", "probabilities"),
        help="the CRF's evidence: the best label of a pixel, with confidence 0.7 (default with a constant "
        "background), or the scores (default with an alpha)",
    )
    add("--affinity_model", default="", help="of walk: run directory or .keras file of an affinity network")
    add("--walk_beta", type=_positive, default=8.0, help="exponent of the affinities, > 0, default 8")
    add("--walk_steps", type=_natural, default=64, help="length of the walk, default 64")
    add(
        "--write",
        choices=("masks", "affinity_labels"),
        default="masks",
        help="masks (default), or labels for an affinity network: CRF at alpha 4 and 24, 255 where unsure",
    )

    group = parser.add_argument_group("the job")
    add = group.add_argument
    add("--overwrite", action="store_true", help="remove what is in the output folder and make it anew")
    add(
        "--max_error_rate",
        type=_share,
        default=0.25,
        help="share of failed images that fails the job, default 0.25",
    )
    add("--max_batch_size", type=_count, default=16, help="most images in a batch, default 16")
    add(
        "--images_per_shard", type=_count, default=64, help="images of a folder in a unit of work, default 64"
    )
    add(
        "--images_per_wave",
        type=_natural,
        default=0,
        help="run locally: images until finished shards are marked; 256, or 2048 with worker processes",
    )
    add(
        "--accelerator", default="", help="Beam's resource hint for inference, such as type:nvidia-l4;count:1"
    )
    return parser


def open_run(model=""):
    """The `Run` at a run directory or `.keras` file; empty: the newest run under `./runs`.

    Raises:
        UserError: there is none.
    """
    path = str(model) or _newest_run()
    if not path.endswith(".keras"):
        path = files.join(path, "model.keras")
    if not files.exists(path):
        raise UserError(f"There is no model at {path}. `python -m wsss.train` makes one.")
    digest = hashlib.sha256(files.read_bytes(path)).hexdigest()[:16]
    folder = path.rpartition("/")[0] if files.is_remote(path) else os.path.dirname(path) or "."
    config_path = files.join(folder, "config.json")
    config = files.read_json(config_path) if files.exists(config_path) else {}
    trained = {**config.get("options", {}), **config}
    names = tuple(trained.get("class_names", ()))
    return Run(folder, path, digest, names, trained.get("data") or "", trained.get("split") or "")


def make_pseudo_labels(options, run, beam_argv=()):
    """Labels the shards that are not done, wave by wave, and writes the results of all.

    Args:
        options: `Options`.
        run: `Run`.
        beam_argv: Beam's flags.

    Returns:
        The program's exit code.
    """
    from wsss.inference import cached_predictor
    from wsss.transforms.label import LabelShards
    from wsss.transforms.read import open_source
    from wsss.transforms.runner import is_local

    source = open_source(
        options.data,
        options.split,
        images_per_shard=options.images_per_shard,
        previews=options.previews,
        leave_out=options.output,
    )
    predictor = cached_predictor(run.model_path, run.model_hash, options.predictor)
    class_names = _class_names(source, run, predictor.classes, options)
    layout = Layout(options.output)
    affinity = open_run(options.affinity_model) if options.affinity_model else None
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
    label = LabelShards(
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
    _run_waves(todo, label, options, beam_argv)
    results = write_results(layout, source, settings, threshold)
    return _report(results, options)


def _run_waves(todo, label, options, beam_argv):
    """Runs the graph on the shards, as many at a time as a wave holds, and shows how far it is."""
    import apache_beam as beam

    from wsss.transforms import progress
    from wsss.transforms.runner import make_pipeline

    with tqdm(total=sum(shard.images for shard in todo), unit="image", disable=None) as bar:
        for wave in _waves(todo, options.images_per_wave, beam_argv):
            before = bar.n
            with progress.listen(bar.update), make_pipeline(beam_argv) as pipeline:
                _ = pipeline | beam.Create(wave, reshuffle=True) | label
            bar.update(before + sum(shard.images for shard in wave) - bar.n)


def _choose_threshold(source, layout, handler, options, beam_argv):
    """The background's score for this collection, from a sample of it; kept in `threshold.json`."""
    import apache_beam as beam

    from wsss.transforms.calibrate import ChooseThreshold, read_threshold
    from wsss.transforms.read import sample
    from wsss.transforms.runner import make_pipeline

    path = layout.path("threshold.json")
    if not files.exists(path):
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
    from wsss.transforms.predict import CamModelHandler

    hints = {"accelerator": options.accelerator} if options.accelerator else {}
    return CamModelHandler(run.model_path, run.model_hash, options.predictor, hints)


def _stages(options, threshold, affinity):
    """What is done to the CAMs of an image, one PTransform after the other."""
    from wsss.transforms import refine

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
    return [*stages, refine.LabelPixels(background)]


def _waves(shards, images_per_wave, beam_argv):
    """Groups shards: on this machine into waves, each of which bounds memory and marks progress."""
    from wsss.transforms.runner import is_local

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
    from wsss.data.records import shard_name

    name = source.collection.name if source.collection else "pseudo_labels"
    shards = source.shards
    return {
        shard.name: shard_name(name, options.split, index, len(shards)) for index, shard in enumerate(shards)
    }


def _class_names(source, run, classes, options):
    """The classes of collection and model, which must be the same."""
    ours = source.collection.class_names if source.collection else ()
    if source.collection is None and options.image_labels == "truth":
        raise UserError(
            f"{options.data} is a folder of images without tags: pass `--image_labels predicted`, or make a "
            "collection of images and tags with `python -m wsss.prepare`."
        )
    if ours and run.class_names and ours != run.class_names:
        raise UserError(
            f"The model was trained on other classes ({_listed(run.class_names)}) than {options.data} has "
            f"({_listed(ours)})."
        )
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
    if not files.exists(path):
        if layout.read_manifests():
            raise UserError(f"{layout.root} holds labels of unknown options. Pass `--overwrite`.")
        files.write_json(path, settings)
        return
    there = files.read_json(path)
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
    total = results.labelled + results.failed
    if total and results.failed / total > options.max_error_rate:
        print(
            f"error: {results.failed} of {total} images failed, more than --max_error_rate "
            f"{options.max_error_rate:g} allows; see errors.jsonl.",
            file=sys.stderr,
        )
        return 1
    return 0


def _fill_in(namespace, run):
    """`Options`, with what was left to the run filled in."""
    values = vars(namespace)
    if values["background_threshold"] is None and values["background_alpha"] is None:
        values["background_threshold"] = 0.2
    if values["background_alpha"] is None and values["write"] == "masks":
        crf = {"crf_preset": "ppc", "crf_unary": "labels"}
    else:
        crf = {"crf_preset": "seam", "crf_unary": "probabilities"}
    values.update({name: values[name] or value for name, value in crf.items()})
    values["model"] = run.model_path
    values["data"] = values["data"] or run.data
    if not values["data"]:
        raise UserError(f"`--data` is missing, and {run.folder} does not say what the model was trained on.")
    values["split"] = values["split"] or run.split or "train"
    values["output"] = values["output"] or files.join(run.folder, "pseudo_labels", values["split"])
    return Options(**values)


def _newest_run():
    found = files.list_files(os.path.join("runs", "*", "model.keras"))
    if not found:
        raise UserError(
            "There is no trained run under ./runs. Pass `--model`, or run `python -m wsss.train`."
        )
    return os.path.dirname(max(found, key=lambda path: (os.path.getmtime(path), path)))


def _listed(names, most=4):
    shown = ", ".join(names[:most])
    return f"{len(names)}: {shown}{', …' if len(names) > most else ''}"


def _scales(text):
    scales = tuple(float(part) for part in text.split(","))
    if not all(0 < scale <= 16 for scale in scales):
        raise argparse.ArgumentTypeError(f"scales lie in (0, 16], such as 0.5,1,1.5,2; got {text}")
    return scales


def _refinements(text):
    stages = () if text == "none" else tuple(text.split(","))
    if not set(stages) <= set(REFINEMENTS) or list(stages) != sorted(set(stages), key=REFINEMENTS.index):
        raise argparse.ArgumentTypeError(f"must be none, or of {','.join(REFINEMENTS)}, in order; got {text}")
    return stages


def _share_or_auto(text):
    return text if text == "auto" else _share(text)


def _share(text):
    return _bounded(text, float, 0, 1)


def _positive(text):
    return _bounded(text, float, 1e-9, 1e9)


def _natural(text):
    return _bounded(text, int, 0, 1 << 31)


def _count(text):
    return _bounded(text, int, 1, 1 << 31)


def _bounded(text, kind, low, high):
    value = kind(text)
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"must lie in [{low:g}, {high:g}]; got {text}")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
