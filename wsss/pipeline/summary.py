"""What a run of the pipeline amounts to: the manifests of all shards, gathered into a few readable files."""

import json
import logging
from dataclasses import dataclass

import numpy as np

from wsss.common import io
from wsss.metrics import counts_of, iou, mean_iou

logger = logging.getLogger(__name__)

# A classifier that has learned scores the classes of an image higher than the others, by at least so much.
_LEARNED = 0.05


@dataclass(frozen=True)
class Results:
    """The figures of a run.

    Attributes:
        labelled: images with a mask.
        failed: images without.
        miou: mean IoU of the masks in [0, 1], or None where no truth is known.
        line: all in one line.
        warnings: what the user should look at.
    """

    labelled: int
    failed: int
    miou: float | None
    line: str
    warnings: tuple[str, ...]


def write_results(layout, source, settings, threshold=None):
    """Writes `errors.jsonl`, `summary.json`, where truth is known `metrics.json`, and `report.html`.

    Args:
        layout: the output's `Layout`.
        source: the `Source`.
        settings: `options`, `model_hash` and `class_names` of the run, as plain values.
        threshold: the background's score where it is a constant.

    Returns:
        `Results`.
    """
    from wsss.pipeline.report import write_report
    from wsss.pipeline.stages.score import Tally

    manifests = layout.read_manifests()
    manifests = [manifests[shard.name] for shard in source.shards]
    tally = sum((Tally.from_state(manifest["tally"]) for manifest in manifests), Tally())
    names = ("background", *settings["class_names"])

    errors = [
        {
            "id": failure.image_id,
            "stage": failure.stage,
            "reason": failure.reason,
            "transient": failure.transient,
        }
        for failure in tally.failures
    ]
    lines = (json.dumps(error, ensure_ascii=False) + "\n" for error in errors)
    io.write_text(layout.path("errors.jsonl"), "".join(lines))
    warnings = tuple(_warnings(tally, settings))
    summary = {
        **settings,
        "background_threshold": threshold,
        "images": {
            "labelled": tally.images,
            "failed": len(tally.failures),
            "failed_by_stage": _count(error["stage"] for error in errors),
        },
        "shards": len(manifests),
        "class_pixels": _named(names, tally.class_pixels),
        "class_images": _named(names, tally.class_images),
        "mean_classifier_score": {
            "classes_present": _mean(tally.present_scores),
            "classes_absent": _mean(tally.absent_scores),
        },
        "warnings": list(warnings),
    }
    io.write_json(layout.path("summary.json"), summary)
    metrics = None if tally.confusion is None else _metrics(tally, names, settings, threshold)
    if metrics:
        io.write_json(layout.path("metrics.json"), metrics)
    if settings["options"]["output_format"] == "tfrecord":
        _write_metadata(layout, manifests, source, settings)
    write_report(layout.root, summary, metrics)

    line = f"{tally.images} images labelled, {len(errors)} failed"
    if metrics:
        line += (
            f"; mIoU {100 * metrics['miou']:.1f} % on {settings['options']['split']}, "
            f"image labels: {settings['options']['image_labels']}"
        )
    return Results(tally.images, len(errors), metrics and metrics["miou"], line, warnings)


def _metrics(tally, names, settings, threshold_used):
    options = settings["options"]
    counts = counts_of(tally.confusion)
    each = iou(counts)
    sweep, curve = tally.sweep, mean_iou(tally.sweep.counts())
    threshold, best = sweep.best()
    return {
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
        "split": options["split"],
        "image_labels": options["image_labels"],
        "background_threshold": {
            "used": threshold_used,
            "used_was_chosen": "from images alone"
            if options["background_threshold"] == "auto"
            else "by hand",
            "best": threshold,
            "best_miou": best,
            "best_was_tuned_on": options["split"],
            "note": "The best threshold is chosen with the true masks of this very split; report the mIoU of "
            "the threshold used, or of one tuned on another split.",
        },
        "sweep": {
            "of": "scores before walk and CRF"
            if {"walk", "crf"} & set(options["refine"])
            else "the scores used",
            "thresholds": [float(value) for value in sweep.thresholds],
            "miou": [float(value) for value in curve],
        },
    }


def _warnings(tally, settings):
    present, absent = _mean(tally.present_scores), _mean(tally.absent_scores)
    if present is not None and absent is not None and present - absent < _LEARNED:
        yield (
            f"The classifier has hardly learned: classes of an image score {present:.3f} on average, others "
            f"{absent:.3f}. Train longer, or with another learning rate, before using these masks."
        )
    if tally.images and present is None:
        found = (
            "no image has a label"
            if settings["options"]["image_labels"] == "truth"
            else ("no class reaches --label_threshold in any image; has the classifier learned?")
        )
        yield f"All masks are background: {found}."


def _write_metadata(layout, manifests, source, settings):
    from wsss.data.dataset import write_metadata

    split = settings["options"]["split"]
    write_metadata(
        layout.root,
        name=source.collection.name if source.collection else "pseudo_labels",
        class_names=settings["class_names"],
        shard_lengths={split: [manifest["records"]["count"] for manifest in manifests]},
        split_bytes={split: sum(manifest["records"]["bytes"] for manifest in manifests)},
        has_masks=True,
        description="Pseudo labels.",
    )


def _named(names, values):
    return {name: int(value) for name, value in zip(names, values)}


def _mean(count_and_sum):
    count, total = (int(value) for value in count_and_sum)
    return total / count / 1e6 if count else None


def _count(values):
    counted = {}
    for value in values:
        counted[value] = counted.get(value, 0) + 1
    return counted
