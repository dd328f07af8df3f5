"""The settings of each step of a job: the flags, with all that the trained run decides filled in."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

from wsss.common import io
from wsss.common.errors import UserError
from wsss.pipeline.job.calibration import CONSTANT, calibrated_threshold
from wsss.pipeline.options import ADAPTATION, LabelOptions
from wsss.pipeline.stages.predict import CamModelHandler, CamSettings
from wsss.pipeline.stages.refine import Background, RefinementSettings
from wsss.pipeline.trained_run import TrainedRun

SEGMENTATION = "deeplab"  # `--model` of a training run
CAM_SCALES, SEGMENTATION_SCALES = (1.5,), (0.75, 1.0, 1.25)
_MAPS = {"classifier": "cam", SEGMENTATION: "probabilities"}  # what a kind of model gives by default


@dataclass(frozen=True)
class ImageSettings:
    """Which images are labeled.

    Attributes:
        data, split, images_per_shard, previews: see `wsss.pipeline.stages.read.open_images`.
        max_side: pixels to whose long side the networks see them shrunk; 0 = never.
        tag_table: of a folder of images, path of the table of their tags; empty without one.
    """

    data: str
    split: str
    images_per_shard: int
    previews: int
    max_side: int
    tag_table: str = ""


@dataclass(frozen=True)
class ThresholdSettings:
    """How the score of the background is found.

    Attributes:
        rule: a score in [0, 1], `auto`, `calibrated`, or None where no constant is used.
        cam: the map that is read out.
        is_kept: whether what is chosen is kept for the model: the images are those that it was trained on.
        note: in one line, where a calibrated threshold comes from; empty for another rule.
    """

    rule: float | str | None
    cam: str
    is_kept: bool
    note: str = ""


@dataclass(frozen=True)
class OutputSettings:
    """What is written, and where.

    Attributes:
        path: the output folder.
        format: `png` or `tfrecord`.
        scores: whether class scores are written.
        overwrite: whether labels that are there are replaced.
        recorded: the options that the labels depend on, as JSON gives them back.
    """

    path: str
    format: str
    scores: bool
    overwrite: bool
    recorded: dict[str, Any]


@dataclass(frozen=True)
class JobSettings:
    """The settings of each step of a job.

    Attributes:
        model: the trained model.
        images: which images are labeled.
        cams: how CAMs are computed; the collection is not open yet.
        threshold: how the score of the background is found.
        refinement: how CAMs become masks; the affinity network is not open yet, and `auto` not chosen.
        affinity_model: run directory or `.keras` file; empty without a walk.
        output: what is written, and where.
        images_per_wave: see `wsss.pipeline.job.labeling.label_shards`.
        detach: whether the job on the cluster is left once it runs.
        labels: folder of pseudo labels whose scores are taken; empty: those of the model.
    """

    model: TrainedRun
    images: ImageSettings
    cams: CamSettings
    threshold: ThresholdSettings
    refinement: RefinementSettings
    affinity_model: str
    output: OutputSettings
    images_per_wave: int
    detach: bool
    labels: str = ""


def resolve(options: LabelOptions, run: TrainedRun) -> JobSettings:
    """The settings of each step: the options, with all that the trained run decides filled in.

    Raises:
        UserError: an option does not suit the model, or the run does not say what it was trained on.
    """
    cam = options.cam or _MAPS.get(run.kind, "refined_cam")
    segments = cam == "probabilities"
    if segments:
        _check_segmentation(options)
    background = _resolve_background(options, run, cam)
    by_labels = options.background_alpha is None and options.write == "masks" and not segments
    crf_preset = "ppc_segmentation" if segments else "ppc" if by_labels else "seam"
    split = options.split or run.split or "train"
    filled = dataclasses.replace(
        options,
        model=run.model_path,
        data=options.data or _data_of(run),
        split=split,
        output=options.output or io.join(run.folder, "pseudo_labels", split),
        scales=options.scales or (SEGMENTATION_SCALES if segments else CAM_SCALES),
        cam=cam,
        min_side=run.min_side if options.min_side is None else options.min_side,
        image_labels=options.image_labels or ("predicted" if segments and not options.labels else "truth"),
        background_threshold=background.threshold,
        threshold_adaptation=background.adaptation,
        crf_preset=options.crf_preset or crf_preset,
        crf_unary=options.crf_unary or ("labels" if by_labels else "probabilities"),
    )
    of_training = filled.image_labels == "truth" and split == (run.split or "train")
    is_kept = background.rule == "auto" and of_training
    threshold = ThresholdSettings(background.rule, cam, is_kept, background.note)
    return _by_step(filled, run, threshold)


def _by_step(options: LabelOptions, run: TrainedRun, threshold: ThresholdSettings) -> JobSettings:
    """Options that are filled in, given to the steps that need them."""
    hints = {"accelerator": options.accelerator} if options.accelerator else {}
    constant = options.background_threshold
    background = Background(
        None if isinstance(constant, str) else constant,
        options.background_alpha,
        options.threshold_adaptation or 0.0,
    )
    return JobSettings(
        model=run,
        images=ImageSettings(
            *(options.data, options.split, options.images_per_shard, options.previews, options.max_side),
            tag_table=options.labels,
        ),
        cams=CamSettings(
            CamModelHandler(run.model_path, run.model_hash, options.predictor, hints),
            collection=None,
            image_labels=options.image_labels,
            label_threshold=options.label_threshold,
            batch_size=options.max_batch_size,
        ),
        threshold=threshold,
        refinement=RefinementSettings(
            options.refine,
            background,
            options.crf_preset,
            options.crf_unary,
            walk_beta=options.walk_beta,
            walk_steps=options.walk_steps,
            write=options.write,
        ),
        affinity_model=options.affinity_model,
        output=OutputSettings(
            options.output,
            options.output_format,
            options.save_scores,
            options.overwrite,
            options.recorded(),
        ),
        images_per_wave=options.images_per_wave,
        detach=options.detach,
    )


class _ResolvedBackground(NamedTuple):
    rule: float | str | None
    threshold: float | str | None  # `auto` is chosen from the images, later
    adaptation: float
    note: str = ""


def _resolve_background(options, run, cam):
    """The background's score by the options, or what the run knows."""
    rule, adaptation = options.background_threshold, options.threshold_adaptation
    if cam == "probabilities":
        rule = None
    elif rule is None and options.background_alpha is None:
        rule = CONSTANT
    if rule == "calibrated":
        known = calibrated_threshold(run, cam)
        default = ADAPTATION if known.is_calibrated else 0.0
        adaptation = default if adaptation is None else adaptation
        return _ResolvedBackground(rule, known.threshold, adaptation, known.line)
    if adaptation is None:
        adaptation = ADAPTATION if rule == "auto" else 0.0
    return _ResolvedBackground(rule, rule, adaptation)


def _check_segmentation(options):
    """Raises a `UserError` for what a segmentation network, which knows the background, has no use for."""
    given = {
        "--background_threshold": options.background_threshold not in (None, "calibrated"),
        "--threshold_adaptation": options.threshold_adaptation is not None,
        "--background_alpha": options.background_alpha is not None,
        "--refine walk": "walk" in options.refine,
        "--affinity_model": bool(options.affinity_model),
        f"--write {options.write}": options.write != "masks",
    }
    for flag, is_given in given.items():
        if is_given:
            raise UserError(
                f"`{flag}` is for class activation maps; the model is a segmentation network, which gives "
                "probabilities of the background and the classes. Leave it out."
            )


def _data_of(run):
    """What the model was trained on."""
    if not run.data:
        raise UserError(f"`--data` is missing, and {run.folder} does not say what the model was trained on.")
    if not io.exists(io.join(run.data, "dataset_info.json")):
        raise UserError(f"`--data` is missing, and {run.data}, what the model was trained on, is not here.")
    return run.data
