"""From tagged images to a segmentation network, step by step: `wsss.run_project`.

    PROJECT/cams              the CAM network, from the tags
    PROJECT/affinity_labels   with --refine walk,crf: confident labels, and
    PROJECT/affinity          the network of pairwise affinities
    PROJECT/labels            pseudo labels of the training images, with a report
    PROJECT/segmentation      the segmentation network, from the pseudo labels
    PROJECT/val_masks         its masks of the validation images, where there are some, with a report
    PROJECT/steps.json        what each step was made from

Each step is one call of a program of this package, shown as the command that does the same. A step whose
inputs did not change since it was finished is skipped; one that was stopped goes on.
"""

import dataclasses
import shlex
from collections.abc import Callable
from typing import Any, NamedTuple

from wsss.common import cli, fingerprint, io
from wsss.common.errors import UserError
from wsss.common.output_folder import claim
from wsss.common.tf_import import import_tensorflow
from wsss.data.dataset import Collection, open_collection
from wsss.data.label_maps import open_label_maps
from wsss.pipeline.report.results import read_summary

_STEPS = "steps.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectOptions(cli.Options):
    """Options of `python -m wsss.run`."""

    data: str = cli.option(
        cli.REQUIRED, "folder or gs:// path of shards written by wsss.prepare, or a TFDS name", metavar="DIR"
    )
    output: str = cli.option("project", "folder for everything", metavar="DIR")
    backbone: str = cli.option("MobileNetV2", "network under all models, see wsss.train", metavar="NAME")
    backbone_weights: str = cli.option("imagenet", "imagenet, none, or a weights file")
    model: str = cli.option(
        "seam", "network that learns CAMs from tags", choices=("seam", "pixel2prototype", "classifier")
    )
    refine: str = cli.option(
        "pamr",
        "refinement of the pseudo labels; walk trains a network of affinities first",
        choices=("none", "pamr", "crf", "pamr,crf", "walk", "walk,crf"),
    )
    seed: int = cli.option(0, "seed of every training", kind=cli.non_negative_int)
    cam_options: str = cli.option(
        "",
        'further flags of wsss.train for the CAM network, such as --cam_options="--epochs 4"',
        metavar="FLAGS",
    )
    label_options: str = cli.option(
        "", "further flags of wsss.pseudo_labels for the training images", metavar="FLAGS"
    )
    affinity_options: str = cli.option(
        "", "further flags of wsss.train for the network of affinities", metavar="FLAGS"
    )
    segmentation_options: str = cli.option(
        "", "further flags of wsss.train for the segmentation network", metavar="FLAGS"
    )


class Step(NamedTuple):
    """One call of a program.

    Attributes:
        name: of the step, and of its folder in the project.
        program: "train" or "pseudo_labels".
        arguments: of the program, `--output` left out.
        needs: names of the steps whose results it reads.
    """

    name: str
    program: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()


class ProjectResult(NamedTuple):
    """What `run_project` leaves.

    Attributes:
        labels: folder of the pseudo labels.
        segmentation: run directory of the segmentation network.
        label_miou: mean IoU of the pseudo labels on the training images, or None where no truth is known.
        val_miou: mean IoU of the segmentation network on the validation images, or None.
    """

    labels: str
    segmentation: str
    label_miou: float | None
    val_miou: float | None


def run_project(data: str, output: str = "project", **options: Any) -> ProjectResult:
    """From tagged images to a segmentation network, as `python -m wsss.run` does it.

    Example:

        result = wsss.run_project("shards", "project", backbone="MobileNetV2")
        wsss.predict_masks(result.segmentation, "photos", "masks")

    Args:
        data: folder or `gs://…` of shards, or a TFDS name.
        output: folder for everything, local or `gs://…`.
        **options: fields of `wsss.project.ProjectOptions`.

    Returns:
        `ProjectResult`.

    Raises:
        UserError: an option or the collection cannot be used, or a step failed.
    """
    return carry_out_project(ProjectOptions(data=data, output=output, **options), lambda line: None)


def carry_out_project(options: ProjectOptions, announce: Callable[[str], None]) -> ProjectResult:
    """Plans the steps of a project and carries out those that are not done.

    Args:
        options: `ProjectOptions`.
        announce: function that takes a line about what is done.

    Raises:
        UserError: an option or the collection cannot be used, or a step failed.
    """
    collection = open_collection(options.data)
    claim(options.output, "project", owned=(_STEPS,), inputs=(options.data,)).begin()
    has_val = "val" in collection.shard_lengths
    steps = plan_steps(options, has_val)
    _set_numerics(steps)
    for step in steps:
        carry_out(step, options.output, collection, announce)
    labels, segmentation, val_masks = (
        io.join(options.output, name) for name in ("labels", "segmentation", "val_masks")
    )
    metrics = read_summary(labels)[1]
    val_metrics = read_summary(val_masks)[1] if has_val else None
    return ProjectResult(
        labels, segmentation, metrics.miou if metrics else None, val_metrics.miou if val_metrics else None
    )


def _set_numerics(steps):
    """Makes TensorFlow deterministic where a training is to be, before any step has used it.

    The steps share a process, and which of them run depends on what was finished before a stop.
    """
    if any("--deterministic" in step.arguments for step in steps):
        import_tensorflow(onednn=True)
        from wsss.training.building import make_deterministic

        make_deterministic()


def plan_steps(options: ProjectOptions, has_val: bool) -> list[Step]:
    """The steps of a project, in order.

    Args:
        options: `ProjectOptions`.
        has_val: whether the collection has a split `val`.
    """

    def folder(name):
        return io.join(options.output, name)

    network = ("--backbone", options.backbone, "--backbone_weights", options.backbone_weights)
    measured = () if has_val else ("--val_split", "none")
    training = ("--data", options.data, *network, "--seed", str(options.seed), *measured)
    cams = ("--model", folder("cams"), "--data", options.data, "--split", "train")
    walks = options.refine.startswith("walk")
    walk = ("--affinity_model", folder("affinity")) if walks else ()
    affinity = ("--masks", folder("affinity_labels"), "--model", "affinity")
    own = {name: tuple(shlex.split(getattr(options, f"{name}_options"))) for name in _WITH_OPTIONS}
    threshold = ("--background_threshold", "auto", "--refine", options.refine)
    return [
        Step("cams", "train", (*training, "--model", options.model, *own["cam"])),
        *(
            [
                Step("affinity_labels", "pseudo_labels", (*cams, "--write", "affinity_labels"), ("cams",)),
                Step("affinity", "train", (*training, *affinity, *own["affinity"]), ("affinity_labels",)),
            ]
            if walks
            else []
        ),
        Step(
            "labels",
            "pseudo_labels",
            (*cams, *threshold, *walk, *own["label"]),
            ("cams", "affinity") if walks else ("cams",),
        ),
        Step(
            "segmentation",
            "train",
            (*training, "--masks", folder("labels"), "--model", "deeplab", *own["segmentation"]),
            ("labels",),
        ),
        *(
            [
                Step(
                    "val_masks",
                    "pseudo_labels",
                    ("--model", folder("segmentation"), "--data", options.data, "--split", "val"),
                    ("segmentation",),
                )
            ]
            if has_val
            else []
        ),
    ]


_WITH_OPTIONS = ("cam", "label", "affinity", "segmentation")


def carry_out(step: Step, project: str, collection: Collection, announce: Callable[[str], None]) -> None:
    """Runs a step, unless it was finished with the same inputs.

    What it was begun with is recorded first: results of other inputs are replaced, also where an earlier call
    was killed while it replaced them.

    Args:
        step: `Step`.
        project: folder of the project.
        collection: `Collection` of the images.
        announce: function that takes a line about what is done.

    Raises:
        UserError: the step failed.
    """
    path, output = io.join(project, _STEPS), io.join(project, step.name)
    record = io.read_object(path) if io.exists(path) else {}
    known = record.get(step.name) or {}
    inputs = _fingerprint_inputs(step, project, collection)
    finished = io.join(output, "result.json" if step.program == "train" else "summary.json")
    if known.get("inputs") == inputs and known.get("done") and io.exists(finished):
        announce(f"{output} is done already.")
        return
    replace = bool(known) and (known.get("inputs") != inputs or bool(known.get("replace")))
    arguments = [*step.arguments, "--output", output, *(["--overwrite"] if replace else [])]
    announce("$ " + shlex.join(["python", "-m", f"wsss.{step.program}", *arguments]))
    io.write_json(path, {**record, step.name: {"inputs": inputs, "replace": replace, "done": False}})
    _PROGRAMS[step.program](arguments, announce)
    io.write_json(path, {**record, step.name: {"inputs": inputs, "replace": False, "done": True}})


def _fingerprint_inputs(step, project, collection):
    """One fingerprint of the arguments, the images and the results of the steps that this one reads."""
    splits = [split for split in ("train", "val") if split in collection.shard_lengths]
    contents = [_content(io.join(project, name), collection) for name in step.needs]
    return fingerprint.combine((step.program, *step.arguments, collection.fingerprint(*splits), *contents))


def _content(folder, collection):
    """Fingerprint of a model or of label maps."""
    model = io.join(folder, "model.keras")
    if io.exists(model):
        return fingerprint.of_file(model)
    return open_label_maps(folder, collection, "train").fingerprint()


def _train(arguments, announce):
    from wsss.training.api import run_training
    from wsss.training.options import parse_options

    _, failure = run_training(parse_options(arguments), announce)
    if failure:
        raise UserError(failure)


def _label(arguments, announce):
    from wsss.pipeline.job import make_pseudo_labels
    from wsss.pipeline.options import LabelOptions
    from wsss.pipeline.options import make_parser as label_parser

    options = LabelOptions(**vars(label_parser().parse_args(arguments)))
    result = make_pseudo_labels(options, announce=announce)
    for line in result.lines():
        announce(line)
    if result.failed_fraction > options.max_error_rate:
        raise UserError(
            f"{result.failed} of {result.labeled + result.failed} images failed; see errors.jsonl in "
            f"{result.output}."
        )


_PROGRAMS = {"train": _train, "pseudo_labels": _label}
