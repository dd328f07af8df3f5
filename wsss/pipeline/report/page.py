"""The page of the report: one file that holds everything it shows, and asks no network for anything."""

import base64
from collections.abc import Sequence
from typing import Any

import jinja2

from wsss.common import io
from wsss.data.images import voc_palette
from wsss.pipeline.report.charts import LineChart, line_chart
from wsss.pipeline.report.pictures import picture_controls, shown_pictures
from wsss.pipeline.report.results import Metrics, Summary, TagCounts
from wsss.pipeline.stages.describe import FLAGS

_KINDS = {"masks": "Pseudo labels", "affinity_labels": "Affinity labels", "irn_labels": "Affinity labels"}


def write_report(folder: str, summary: Summary, metrics: Metrics | None = None) -> str:
    """Writes the page.

    Args:
        folder: output folder of the pipeline, local or remote, with its `previews`.
        summary: of its `summary.json`.
        metrics: of its `metrics.json`, or None.

    Returns:
        Path of the page.
    """
    path = io.join(folder, "report.html")
    previews = io.list_files(io.join(io.escape(folder), "previews", "**"))
    strips = [
        (file.rsplit("/previews/", 1)[-1].removesuffix(".png"), io.read_bytes(file)) for file in previews
    ]
    shown = shown_pictures(folder, summary)
    io.write_text(path, render(summary, metrics, strips=() if shown else strips, shown=shown))
    return path


def render(
    summary: Summary,
    metrics: Metrics | None,
    *,
    strips: Sequence[tuple[str, bytes]] = (),
    shown: Sequence[dict[str, Any]] = (),
) -> str:
    """The page as HTML.

    Args:
        summary: of `summary.json`.
        metrics: of `metrics.json`, or None.
        strips: name and PNG bytes of pictures side by side, of labels of older versions.
        shown: pictures as `shown_pictures` gives them.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wsss.pipeline.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        **_context(summary, metrics, strips), **_pictures_context(summary, metrics, shown)
    )


def _context(
    summary: Summary, metrics: Metrics | None, strips: Sequence[tuple[str, bytes]]
) -> dict[str, Any]:
    options = summary.options
    written = options.get("write") or "masks"
    columns = ["image", "strongest class score", "pseudo label", *(["true mask"] if metrics else [])]
    # An option that was not given says nothing about these labels.
    given = [(name, value) for name, value in sorted(options.items()) if value not in (None, "", [])]
    return {
        "title": _title(_KINDS.get(written, _KINDS["masks"]), options),
        "summary": summary,
        "metrics": metrics,
        "options": {"image_labels": None, "model": None, **options},
        "is_masks": written == "masks",
        "columns": columns,
        "strips": [{"name": name, "source": _embed(png)} for name, png in strips],
        "curve": _curve(metrics) if metrics else None,
        "curve_is_of_other_scores": metrics
        and metrics.of not in ("masks", f"masks of the {metrics.sweep_of}"),
        "flags": [
            {"name": name, "count": count, "meaning": FLAGS.get(name, "")}
            for name, count in summary.flags.items()
            if count
        ],
        "foreground": _foreground(summary),
        "classes": _classes(summary, metrics),
        "given": given,
        "percent": _percent,
    }


def _pictures_context(
    summary: Summary, metrics: Metrics | None, shown: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    controls = picture_controls(shown, summary)
    of_program = ("id", "groups", "classes", "flags", "class_ids", "size", "scores")
    scores_of = summary.foreground.of if summary.foreground else "class scores"
    return {
        "shown": shown,
        "controls": controls,
        "scores_of": metrics.sweep_of if metrics else scores_of,
        # A threshold of one's own for all images, as the slider has it; there is none for probabilities.
        "relabels": bool(summary.options.get("save_scores"))
        and summary.options.get("cam") != "probabilities"
        and summary.options.get("write") == "masks",
        "start": 0.2 if summary.threshold is None else summary.threshold,
        "data": {
            "colors": controls["colors"],
            "pictures": [{name: each[name] for name in of_program} for each in shown],
        },
    }


def _title(kind: str, options: dict[str, Any]) -> str:
    data, split = options.get("data"), options.get("split")
    return kind + (f" of {data}" if data else "") + (f", split {split}" if split else "")


def _curve(metrics: Metrics) -> LineChart:
    values = [100 * value for value in metrics.curve]
    best = f"best {100 * metrics.best_miou:.1f} at {metrics.best:.2f}"
    return line_chart(
        metrics.thresholds,
        values,
        label=f"Mean IoU over the background threshold, of {metrics.sweep_of}: {best}.",
        x_label="background threshold",
        y_label=f"mean IoU, %, of {metrics.sweep_of}",
        peak=best,
        line=None if metrics.used is None else (metrics.used, f"used: {metrics.used:g}"),
    )


def _foreground(summary: Summary) -> LineChart | None:
    curve, used = summary.foreground, summary.threshold
    if curve is None:
        return None
    return line_chart(
        curve.thresholds,
        [100 * value for value in curve.fraction],
        label=f"Share of the pixels above the background threshold, of {curve.of}: from "
        f"{_percent(curve.fraction[0])} at {curve.thresholds[0]:g} to {_percent(curve.fraction[-1])} at "
        f"{curve.thresholds[-1]:g}.",
        x_label="background threshold",
        y_label="pixels above it, %",
        line=None if used is None else (used, f"used: {used:g}"),
    )


def _classes(summary: Summary, metrics: Metrics | None) -> list[dict[str, Any]]:
    """The rows of the table: by IoU, the lowest first, where it is known, else by area, the largest first."""
    total = max(1, sum(summary.class_pixels.values()))
    rows = [
        {
            "name": name,
            "color": bytes(color).hex(),
            "images": summary.class_images[name],
            "share": count / total,
            "iou": metrics.iou.get(name) if metrics else None,
            **_tags_of(summary.tags.get(name)),
            "confused": _confused(metrics, name),
        }
        for (name, count), color in zip(summary.class_pixels.items(), voc_palette(), strict=False)
    ]
    if metrics:
        return sorted(rows, key=lambda row: -1 if row["iou"] is None else row["iou"])
    return sorted(rows, key=lambda row: -row["share"])


def _tags_of(counts: TagCounts | None) -> dict[str, Any]:
    if counts is None:  # the background, or labels of an older version
        return {"tagged": "", "recall": None, "predicted": ""}
    recall = counts.found / counts.tagged if counts.tagged else None
    return {"tagged": counts.tagged, "recall": recall, "predicted": counts.predicted}


def _confused(metrics: Metrics | None, name: str) -> str:
    found = metrics.confused_with.get(name, {}) if metrics else {}
    largest_first = sorted(found.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{other} {100 * fraction:.0f}\N{NO-BREAK SPACE}%" for other, fraction in largest_first)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _embed(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
