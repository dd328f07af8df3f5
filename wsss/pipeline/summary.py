"""Results of a job: the manifests of all shards, summed up into a few readable files."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from wsss.common import io
from wsss.data.dataset import write_metadata
from wsss.metrics import THRESHOLDS, ThresholdSweep, counts_of, iou, mean_iou
from wsss.pipeline.dead_letter import Failure
from wsss.pipeline.image_table import TableStatistics, write_table
from wsss.pipeline.output import LabelSettings, Layout
from wsss.pipeline.report.page import write_report
from wsss.pipeline.report.results import Metrics, Summary
from wsss.pipeline.stages.describe import FLAGS
from wsss.pipeline.stages.manifest import Manifest, RecordFile
from wsss.pipeline.stages.refinement_choice import RefinementChoice
from wsss.pipeline.stages.score import Tally

# A classifier that has learned scores the classes of an image higher than the others, by at least so much.
_LEARNED = 0.05
# Fractions of the refined images beyond which a refinement is reported to harm, and the least number for it.
_CONFUSIONS, _LEAST_CONFUSION = 3, 0.01  # of each class in `metrics.json`: how many, from which fraction on
_MOST_COLLAPSED, _MOST_LOST, _LEAST_WARNED = 0.05, 0.2, 2
_CHOSEN = {"auto": "from images alone", "calibrated": "from the images that the model was trained on"}


@dataclass(frozen=True)
class LabelResult:
    """Result of a job.

    Attributes:
        output: the folder of the pseudo labels.
        labeled: number of images with a mask.
        failed: number of images without, listed in `errors.jsonl`.
        miou: mean IoU of the masks in [0, 1], or None where no truth is known.
        background_threshold: score of the background, or None where it is no constant.
        line: all in one line.
        warnings: what is suspicious about the labels.
        empty: number of images with a mask that holds no class, though it should.
    """

    output: str
    labeled: int
    failed: int
    miou: float | None
    background_threshold: float | None
    line: str
    warnings: tuple[str, ...]
    empty: int = 0

    @property
    def failed_fraction(self) -> float:
        """Fraction of the images without a mask; 0 where there is no image."""
        return self.failed / max(1, self.labeled + self.failed)

    def lines(self) -> list[str]:
        """What a program prints: the warnings, and all in one line with the folder."""
        return [*(f"warning: {warning}" for warning in self.warnings), f"{self.line} → {self.output}"]


def write_results(
    layout: Layout,
    manifests: Iterable[Manifest],
    settings: LabelSettings,
    *,
    name: str,
    threshold: float | None = None,
    rule: float | str | None = None,
    choice: RefinementChoice | None = None,
) -> LabelResult:
    """Writes `errors.jsonl`, `images.csv`, `summary.json`, where truth is known `metrics.json`, and a report.

    Args:
        layout: the output's `Layout`.
        manifests: of all shards, in order; they are added up as they come.
        settings: what the labels were made with.
        name: of the collection, for TFRecord output.
        threshold: the background's score where it is a constant.
        rule: how that was chosen: `auto`, `calibrated`, or by the user.
        choice: the refinement that `--refine auto` chose, or None where the user did.

    Returns:
        `LabelResult`; its `output` is the folder of the `Layout`.
    """
    total = _add_up(manifests)
    tally = total.tally
    names = ("background", *settings.class_names)
    _write_errors(layout.path("errors.jsonl"), tally)
    stages = settings.options["refine"] if choice is None else list(choice.stages)
    predicted = settings.options["image_labels"] == "predicted"
    table = write_table(layout, total.shards, settings.class_names, predicted)
    warnings = (
        *_warnings(tally, settings.options["image_labels"]),
        *_warnings_of_refinement(table, stages),
    )
    summary = {
        **settings.to_json(),
        "background_threshold": threshold,
        "images": {
            "labelled": tally.images,  # as version 0.1.0 spells it
            "failed": len(tally.failures),
            "empty": table.flags["empty"],
            "read": tally.images + len(tally.failures),
            "failed_by_stage": dict(Counter(failure.stage for failure in tally.failures)),
            "failed_by_reason": dict(Counter(f"{each.stage} {each.kind}" for each in tally.failures)),
            "bytes": tally.image_bytes,
        },
        "shards": len(total.shards),
        "class_pixels": _named(names, tally.class_pixels),
        "class_images": _named(names, tally.class_images),
        "mean_classifier_score": {
            "classes_present": _mean(tally.present_scores),
            "classes_absent": _mean(tally.absent_scores),
        },
        "flags": {flag: table.flags[flag] for flag in FLAGS},
        "empty_images": table.empty,
        "refinement": table.refinement(),
        "refinement_choice": None if choice is None else asdict(choice),
        "quality": table.quality_scores(),
        "tags": table.tags(settings.class_names),
        "foreground": _foreground(tally, {**settings.options, "refine": stages}),
        "pictures": table.shown.to_json(),
        "warnings": list(warnings),
    }
    io.write_json(layout.path("summary.json"), summary)
    metrics = None
    # Confident labels for a network of affinities leave most pixels open: of them no mIoU is given.
    is_segmentation = settings.options.get("write", "masks") == "masks"
    if is_segmentation and tally.confusion is not None and tally.sweep is not None:
        options = {**settings.options, "refine": stages}
        metrics = _metrics(tally.confusion, tally.sweep, names, options, threshold, rule)
        io.write_json(layout.path("metrics.json"), metrics)
    if settings.options["output_format"] == "tfrecord":
        _write_metadata(layout.root, total.records, name, settings)
    write_report(
        layout.root,
        Summary.from_json(summary, layout.path("summary.json")),
        Metrics.from_json(metrics, layout.path("metrics.json")) if metrics else None,
    )
    miou = metrics["miou"] if metrics else None
    line = _line(tally, table, miou, settings.options)
    return LabelResult(
        layout.root,
        tally.images,
        len(tally.failures),
        miou,
        threshold,
        line,
        warnings,
        empty=table.flags["empty"],
    )


class _Total(NamedTuple):
    """What the manifests of a job say together."""

    tally: Tally
    shards: list[str]
    records: list[RecordFile]


def _add_up(manifests: Iterable[Manifest]) -> _Total:
    """Sums manifests, of which one at a time is needed."""
    counts, total = Tally(), _Total(Tally(), [], [])
    failures: list[Failure] = []
    for manifest in manifests:
        counts += replace(manifest.tally, failures=())
        failures.extend(manifest.tally.failures)
        total.shards.append(manifest.shard)
        if manifest.records is not None:
            total.records.append(manifest.records)
    return total._replace(tally=replace(counts, failures=tuple(failures)))


def _write_errors(path: str, tally: Tally) -> None:
    errors = (
        {
            "id": failure.image_id,
            "stage": failure.stage,
            "reason": failure.reason,
            "transient": failure.transient,
        }
        for failure in tally.failures
    )
    io.write_text(path, "".join(json.dumps(error, ensure_ascii=False) + "\n" for error in errors))


def _line(tally: Tally, table: TableStatistics, miou: float | None, options: dict[str, Any]) -> str:
    line = f"{tally.images} images labeled, {len(tally.failures)} failed"
    if table.flags["empty"]:
        line += f", {table.flags['empty']} left empty"
    if table.flags["collapsed"]:
        line += f", {table.flags['collapsed']} collapsed by the refinement"
    if miou is None:
        return line
    return f"{line}; mIoU {100 * miou:.1f} % on {options['split']}, image labels: {options['image_labels']}"


def _metrics(
    confusion: np.ndarray,
    sweep: ThresholdSweep,
    names: Sequence[str],
    options: dict[str, Any],
    threshold_used: float | None,
    rule: float | str | None,
) -> dict[str, Any]:
    counts = counts_of(confusion)
    each, curve = iou(counts), mean_iou(sweep.counts())
    threshold, best = sweep.best()
    of_masks, of_sweep = describe_scores(options)
    return {
        "of": of_masks,
        "miou": float(mean_iou(counts)),
        "miou_of_classes_that_occur": float(mean_iou(counts, absent="skip")),
        "iou": {
            name: None if np.isnan(value) else float(value) for name, value in zip(names, each, strict=True)
        },
        "pixels": {
            "true_positives": _named(names, counts.true_positives),
            "predicted": _named(names, counts.predicted),
            "truth": _named(names, counts.truth),
        },
        "confused_with": _confusions(confusion, names),
        "split": options["split"],
        "image_labels": options["image_labels"],
        "background_threshold": {
            "used": threshold_used,
            "used_was_chosen": _how_chosen(rule, options),
            "best": threshold,
            "best_miou": best,
            "best_is_of": of_sweep,
            "best_was_tuned_on": options["split"],
            "note": "The best threshold is chosen with the true masks of this very split; report the mIoU of "
            "the threshold used, or of one tuned on another split.",
        },
        "sweep": {
            "of": of_sweep,
            "thresholds": [float(value) for value in sweep.thresholds],
            "miou": [float(value) for value in curve],
        },
    }


def _confusions(confusion: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of the pixels of each class the fractions that get another label, the largest, from 1 % on."""
    columns = (*names, "ignored")
    found = {}
    for row, name in enumerate(names):
        fractions = confusion[row] / max(1, confusion[row].sum())
        order = [column for column in np.argsort(-fractions, kind="stable") if column != row][:_CONFUSIONS]
        found[name] = {
            columns[column]: round(float(fractions[column]), 4)
            for column in order
            if fractions[column] >= _LEAST_CONFUSION
        }
    return found


def _foreground(tally: Tally, options: dict[str, Any]) -> dict[str, Any] | None:
    """Fraction of the pixels that are of a class, by the background threshold: known without any truth."""
    if tally.strongest is None or not tally.strongest.any():
        return None
    above = tally.strongest[::-1].cumsum()[::-1][1:]
    return {
        "of": describe_scores(options)[1],
        "thresholds": [float(value) for value in THRESHOLDS],
        "fraction": [round(float(value), 6) for value in above / tally.strongest.sum()],
    }


def _how_chosen(rule: float | str | None, options: dict[str, Any]) -> str:
    adapted = ", and adapted to each image" if options.get("threshold_adaptation") else ""
    return _CHOSEN.get(str(rule), "by hand") + adapted


def describe_scores(options: dict[str, Any]) -> tuple[str, str]:
    """Of which scores the masks' metrics are, and of which those of the sweep."""
    stages = options["refine"]
    scores = "class probabilities" if options.get("cam") == "probabilities" else "CAM scores"
    if "pamr" in stages:
        scores += " after PAMR"
    later = [{"walk": "random walk", "crf": "CRF"}[stage] for stage in stages if stage in ("walk", "crf")]
    if options["write"] != "masks":
        later.append("CRF")
    if not later:
        return f"masks of the {scores}", scores
    refinement = " and ".join(later)
    return f"masks of the {scores}, refined by {refinement}", f"{scores} before {refinement}"


def _warnings(tally: Tally, image_labels: str) -> Iterator[str]:
    present, absent = _mean(tally.present_scores), _mean(tally.absent_scores)
    if present is not None and absent is not None and present - absent < _LEARNED:
        yield (
            f"The classifier has hardly learned: classes of an image score {present:.3f} on average, others "
            f"{absent:.3f}. Train longer, or with another learning rate, before using these masks."
        )
    if tally.images and present is None:
        found = (
            "no image has a label"
            if image_labels == "truth"
            else "no class reaches --label_threshold in any image; has the classifier learned?"
        )
        yield f"All masks are background: {found}."


def _warnings_of_refinement(table: TableStatistics, stages: Sequence[str]) -> Iterator[str]:
    for flag, most, what in (
        ("collapsed", _MOST_COLLAPSED, "hold one single value, and held several before it"),
        ("class_lost", _MOST_LOST, "lost a class to it"),
    ):
        count = table.flags[flag]
        if table.refined and count >= _LEAST_WARNED and count / table.refined > most:
            yield (
                f"The refinement {','.join(stages)} harms the masks: {count} of {table.refined} {what}. "
                "Label without it, with `--refine none`, and compare."
            )


def _write_metadata(root: str, records: Sequence[RecordFile], name: str, settings: LabelSettings) -> None:
    split = settings.options["split"]
    write_metadata(
        root,
        name=name,
        class_names=list(settings.class_names),
        shard_lengths={split: [each.count for each in records]},
        split_bytes={split: sum(each.bytes for each in records)},
        has_masks=True,
        description="Pseudo labels.",
    )


def _named(names: Sequence[str], values: np.ndarray) -> dict[str, int]:
    return {name: int(value) for name, value in zip(names, values)}


def _mean(count_and_sum: np.ndarray) -> float | None:
    count, total = (int(value) for value in count_and_sum)
    return total / count / 1e6 if count else None
