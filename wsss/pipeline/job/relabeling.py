"""Masks made anew from stored scores, with another threshold or refinement, and without the model."""

import dataclasses
import logging
import typing
from collections.abc import Callable, Sequence
from typing import Any

from wsss.common.errors import UserError
from wsss.common.output_folder import claim, same_place
from wsss.pipeline.job.labeling import carry_out
from wsss.pipeline.job.score_folder import open_scores, settings_of_scores
from wsss.pipeline.job.settings import resolve
from wsss.pipeline.options import MASK_OPTIONS, LabelOptions
from wsss.pipeline.output import OWNED, LabelSettings
from wsss.pipeline.summary import LabelResult
from wsss.pipeline.trained_run import TrainedRun

logger = logging.getLogger(__name__)

INHERITED = ("data", *(name for name in MASK_OPTIONS if name != "save_scores"))  # unless they are given
# What scores depend on, or a run of the model only: those of the labels stay.
FIXED = (
    *("model", "split", "scales", "mirror", "cam", "max_side", "min_side", "max_activation_memory"),
    *("image_labels", "label_threshold", "max_batch_size", "images_per_shard"),
)
_REMEDY = "Label with the model again."
_BACKGROUND = ("background_threshold", "background_alpha", "threshold_adaptation")


def options_of_relabeling(labels: str, **given: Any) -> LabelOptions:
    """The options of labels, changed by those that are given.

    Options that depend on one another are taken together: with another rule for the background the others'
    defaults are those of that rule, and without a walk there is no affinity model.

    Args:
        labels: folder of pseudo labels with scores.
        **given: fields of `LabelOptions` but those in `FIXED`; `save_scores` None: in place alone.

    Raises:
        UserError: the folder holds no scores, an option cannot be changed, or has a wrong value.
    """
    for name in FIXED:
        if name in given:
            raise UserError(
                f"`{name}` changes the scores, not only masks: label with `pseudo_labels` for that."
            )
    output = given.get("output") or labels
    in_place = same_place(output, labels)
    if in_place and given.get("overwrite"):
        claim(labels, "pseudo_labels", owned=OWNED)  # puts masks in place that a stopped run had ready
    made_with = settings_of_scores(labels)
    recorded = _recorded_values(made_with, labels)
    before = dict(recorded)
    if any(given.get(name) is not None for name in ("background_threshold", "background_alpha")):
        for name in _BACKGROUND:
            recorded.pop(name, None)
    if recorded.get("background_threshold") is None:  # of an alpha, or of a segmentation network
        recorded.pop("threshold_adaptation", None)
    if "walk" not in given.get("refine", "walk") and "auto" not in given["refine"]:
        recorded.pop("affinity_model", None)
    values = {**recorded, **given, "output": output}
    if given.get("save_scores") is None:
        values["save_scores"] = in_place
    if _takes_labels(values) != _takes_labels(before):
        for name in ("crf_preset", "crf_unary"):
            if name not in given:
                values.pop(name, None)
    if in_place and not values["save_scores"]:
        raise UserError(
            f"The scores in {labels} would be lost. Name another `--output` for masks without them."
        )
    return LabelOptions(**values)


def _takes_labels(values):
    """Whether the CRF's constants are those for a constant background."""
    return values.get("background_alpha") is None and values.get("write", "masks") == "masks"


def _recorded_values(made_with: LabelSettings, labels: str) -> dict[str, Any]:
    """The recorded options as fields of `LabelOptions`; what another version recorded besides is left out."""
    kinds = {field.name: field.type for field in dataclasses.fields(LabelOptions)}
    found = {}
    for name, value in made_with.options.items():
        if name not in kinds:
            continue
        if not _is_of(value, kinds[name]):
            raise UserError(f"{labels}/options.json is damaged: `{name}` is {value!r}. {_REMEDY}")
        found[name] = tuple(value) if isinstance(value, list) else value
    missing = [name for name in (*FIXED, "data") if name not in found and name != "max_activation_memory"]
    if missing:
        raise UserError(
            f"{labels}/options.json lacks `{missing[0]}`: it is damaged, or of an earlier version. {_REMEDY}"
        )
    return found


def _is_of(value, kind):
    """Whether a JSON value is of a field's type."""
    if typing.get_origin(kind) is tuple:
        return isinstance(value, list) and all(_is_of(part, typing.get_args(kind)[0]) for part in value)
    if typing.get_args(kind):  # one of several
        return any(_is_of(value, each) for each in typing.get_args(kind))
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def make_masks_anew(
    labels: str,
    options: LabelOptions,
    beam_argv: Sequence[str] = (),
    announce: Callable[[str], None] = logger.info,
) -> LabelResult:
    """Makes masks from the scores in a folder of pseudo labels.

    Args:
        labels: the folder.
        options: from `options_of_relabeling`.
        beam_argv: Beam's flags.
        announce: function of a line of text, called with what is known before the work begins.

    Returns:
        `LabelResult`.

    Raises:
        UserError: the scores, the images or the output folder cannot be used.
    """
    scores = open_scores(labels)
    path = options.model
    folder = path.rpartition("/")[0] or "."
    run = TrainedRun(folder, path, scores.made_with.model_hash, scores.made_with.class_names)
    settings = resolve(options, run)
    threshold = dataclasses.replace(settings.threshold, is_kept=False)  # the model is not touched
    settings = dataclasses.replace(settings, threshold=threshold, labels=labels)
    return carry_out(settings, scores, beam_argv, announce)
