"""The flags of `pipelines/pseudo_labels.py`."""

import argparse
import dataclasses
import os
from typing import Any

from wsss.common import cli, io
from wsss.common.errors import UserError

REFINEMENTS = ("pamr", "walk", "crf")
ADAPTATION = 0.75  # weight of an image's own background threshold, see benchmarks/background_threshold.py
AUTO = ("auto",)  # the refinement is chosen from the images
CRF_PRESET_NAMES = (
    "seam",
    "irn",
    "ppc",
    "ppc_segmentation",
    "deeplab",
    "fast",
)  # those of wsss.refine.crf.CRF_PRESETS
# Options that change masks and files, and no score: masks are made anew from stored scores.
MASK_OPTIONS = (
    *("output_format", "save_scores", "previews", "write"),
    *("background_threshold", "threshold_adaptation", "background_alpha", "refine"),
    *("crf_preset", "crf_unary", "affinity_model", "walk_beta", "walk_steps"),
)
_NOT_RECORDED = (
    "output",
    "overwrite",
    "images_per_wave",
    "max_error_rate",
    "accelerator",
    "max_activation_memory",
    "detach",
)


def _scales(text):
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < scale <= 16 for scale in scales):
        raise argparse.ArgumentTypeError(
            f"must be numbers in (0, 16] with commas between, such as 0.5,1,1.5,2. Received: {text}"
        )
    return scales


def _refinements(text):
    if text == "auto":
        return AUTO
    stages = () if text == "none" else tuple(text.split(","))
    if not set(stages) <= set(REFINEMENTS) or list(stages) != sorted(set(stages), key=REFINEMENTS.index):
        raise argparse.ArgumentTypeError(
            f"must be none, auto, or some of {','.join(REFINEMENTS)} in that order. Received: {text}"
        )
    return stages


def _refinements_of_text(text):
    try:
        return _refinements(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"`refine` {error}") from error


def _unit_interval_or_rule(text):
    return text if text in ("auto", "calibrated") else cli.unit_interval(text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelOptions(cli.Options):
    """Options of `pipelines/pseudo_labels.py`; each field is a flag of the same name.

    What depends on the trained run is empty or None here; `wsss.pipeline.job.settings.resolve` fills it in.
    """

    model: str = cli.option(
        "",
        "run directory or .keras file; default: the newest run under ./runs",
        metavar="PATH",
        group="input and output",
    )
    data: str = cli.option(
        "", "collection, TFDS name or folder of images; default: the run's own", metavar="DIR"
    )
    split: str = cli.option("", "split of the collection, or all; default: the one trained on")
    labels: str = cli.option(
        "",
        "of a folder of images: table of their tags, with a column id and one 0/1 column a class, or one "
        "column labels of names, as wsss.prepare reads it",
        metavar="CSV",
    )
    output: str = cli.option(
        "", "folder, local or gs://; default: pseudo_labels/SPLIT beside the model", metavar="DIR"
    )
    output_format: str = cli.option("png", "a PNG a mask, or TFRecord shards", choices=("png", "tfrecord"))
    save_scores: bool = cli.option(False, "also write the scores of the present classes, float16")
    previews: int = cli.option(
        12,
        "pictures in report.html: of images spaced evenly, and as many of the worst and best",
        kind=cli.non_negative_int,
    )

    scales: tuple[float, ...] = cli.option(
        (),
        "scale factors of the image; default: 1.5 of CAMs, which gives masks as good as the publications' "
        "0.5,1,1.5,2 at 0.3 of the cost (docs/results.md), and 0.75,1,1.25 of a segmentation network",
        kind=_scales,
        metavar="S,S",
        group="class activation maps",
    )
    mirror: bool = cli.option(True, "average with the horizontal flip", deprecated={"--no_mirror": False})
    cam: str = cli.option(
        "",
        "map that is read out; default: refined_cam, cam of a classifier, or probabilities of a segmentation "
        "network",
        choices=("refined_cam", "cam", "probabilities"),
    )
    max_side: int = cli.option(
        1024, "pixels; larger images are shrunk to this long side, 0 = never", kind=cli.non_negative_int
    )
    min_side: int | None = cli.option(
        None,
        "pixels; smaller images are enlarged to this long side, 0 = never; default: the least that the model "
        "was trained at, at most 256",
        kind=cli.non_negative_int,
    )
    max_activation_memory: int | None = cli.option(
        None,
        "on a CPU: MiB of activation maps in one call of the network, beyond which it runs tiled, in less "
        "memory and more time; default 512",
        kind=cli.positive_int,
    )

    image_labels: str = cli.option(
        "",
        "classes of an image: the collection's tags (default), or those that the model predicts (default of "
        "a segmentation network)",
        choices=("truth", "predicted"),
        group="masks",
    )
    label_threshold: float = cli.option(
        0.5,
        "least classifier score of a predicted class; of a segmentation network, its largest probability",
        kind=cli.unit_interval,
    )
    background_threshold: float | str | None = cli.option(
        None,
        "score of the background, in [0, 1]; auto: the mean of the strongest class scores; calibrated: what "
        "auto chose when the model's training images were labeled, kept in its run directory, or else 0.2; "
        "default: 0.2, of wsss.predict calibrated",
        kind=_unit_interval_or_rule,
        metavar="X",
    )
    threshold_adaptation: float | None = cli.option(
        None,
        "weight in [0, 1] of each image's own threshold (Otsu's) against the collection's; default: "
        f"{ADAPTATION} with auto and calibrated, else 0",
        kind=cli.unit_interval,
    )
    background_alpha: float | None = cli.option(
        None,
        "in place of the threshold: exponent of (1 - max score)^alpha, > 0; default: not used",
        kind=cli.positive_float,
    )
    refine: tuple[str, ...] = cli.option(
        (),
        "none, or some of pamr,walk,crf in this order; auto: none, pamr, crf or, with --affinity_model, "
        "walk, as a sample of the images suggests without any mask",
        kind=_refinements,
        metavar="STAGES",
    )
    crf_preset: str = cli.option(
        "",
        "constants of the CRF; default: ppc, seam with an alpha, ppc_segmentation of a segmentation network",
        choices=CRF_PRESET_NAMES,
    )
    crf_unary: str = cli.option(
        "",
        "unary of the CRF: the best label of a pixel with confidence 0.7 (default with a constant "
        "background), or the scores (default with an alpha, and of a segmentation network)",
        choices=("labels", "probabilities"),
    )
    affinity_model: str = cli.option(
        "", "of walk: run directory or .keras file of `--model affinity` or `irn`", metavar="PATH"
    )
    walk_beta: float | None = cli.option(
        None, "exponent of the affinities, > 0; default: 8, or 10 with an IRN", kind=cli.positive_float
    )
    walk_steps: int | None = cli.option(
        None, "steps of the random walk; default: 64, or 256 with an IRN", kind=cli.non_negative_int
    )
    write: str = cli.option(
        "masks",
        "masks, or confident labels to train an affinity network on, 255 elsewhere: CRF at alpha 4 and 24 "
        "(AffinityNet's), or at background scores 0.30 and 0.05 (IRN's)",
        choices=("masks", "affinity_labels", "irn_labels"),
    )

    overwrite: bool = cli.option(
        False, "replace the pseudo labels in the output folder; default: resume", group="the job"
    )
    max_error_rate: float = cli.option(
        0.25, "exit code 1 if a larger fraction of the images fails", kind=cli.unit_interval
    )
    max_batch_size: int = cli.option(16, "most images in a batch", kind=cli.positive_int)
    images_per_shard: int = cli.option(64, "of a folder: images in a shard", kind=cli.positive_int)
    images_per_wave: int = cli.option(
        0,
        "run locally: images after which finished shards are marked; default: 256, or 2048 with worker "
        "processes",
        kind=cli.non_negative_int,
    )
    accelerator: str = cli.option("", "Beam's resource hint for the workers, such as type:nvidia-l4;count:1")
    detach: bool = cli.option(
        False, "on a cluster: leave the job once it runs; `python -m wsss.report OUTPUT` gathers its results"
    )

    def check(self) -> None:
        if isinstance(self.refine, str):  # from Python, as on the command line
            object.__setattr__(self, "refine", _refinements_of_text(self.refine))
        if self.labels and self.image_labels == "predicted":
            raise UserError("`--labels` gives the tags of the images: leave out `--image_labels predicted`.")
        if self.background_threshold is not None and self.background_alpha is not None:
            raise UserError("Give one of `--background_threshold` and `--background_alpha`.")
        if self.write != "masks" and "crf" in self.refine:
            raise UserError(f"`--write {self.write}` has a CRF of its own; leave crf out of `--refine`.")
        if self.refine == AUTO and self.write != "masks":
            raise UserError(f"`--refine auto` chooses among masks; leave it out of `--write {self.write}`.")
        if self.refine != AUTO and ("walk" in self.refine) != bool(self.affinity_model):
            raise UserError("`--refine walk` and `--affinity_model` go together: give both or neither.")

    @property
    def predictor(self) -> tuple[tuple[str, Any], ...]:
        """`(name, value)` pairs, the keyword arguments of `CamPredictor`."""
        pairs = [(name, getattr(self, name)) for name in ("scales", "mirror", "cam", "max_side", "min_side")]
        mebibytes = self.max_activation_memory
        return (*pairs, ("max_activation_memory", mebibytes and mebibytes << 20))

    def recorded(self) -> dict[str, Any]:
        """The options that the results depend on, as JSON gives them back."""
        values = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if name not in _NOT_RECORDED
        }


# What `wsss.predict` sets by itself.
NEW_IMAGES = {"split": "all", "image_labels": "predicted"}


def options_of_new_images(**values) -> LabelOptions:
    """`LabelOptions` for images without tags: predicted classes, and a background threshold as calibrated."""
    if values.get("background_threshold") is None and values.get("background_alpha") is None:
        values["background_threshold"] = "calibrated"
    _check_folder(values.get("data", ""))
    return LabelOptions(**{**values, **NEW_IMAGES})


def _check_folder(images: str) -> None:
    if not images or io.is_remote(images) or os.path.isdir(images):
        return
    found = "is a file, not a folder" if os.path.exists(images) else "does not exist"
    raise UserError(f"`--images` {images} {found}. Name a folder of images; sub-folders are read too.")


def make_parser() -> cli.Parser:
    """The parser of the program's own flags; Beam parses the rest."""
    return cli.make_parser(
        LabelOptions,
        prog="pseudo_labels.py",
        description="Makes pseudo labels with a trained model: bare, with the newest run under ./runs, of "
        "the data that it was trained on. Beam's own flags (--runner, --direct_num_workers, …) may be added.",
    )
