"""HTML report of a folder of pseudo labels: pictures, the threshold curve, the classes, the options."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from wsss.common import io
from wsss.common.errors import UserError
from wsss.data.images import voc_palette
from wsss.pipeline.schema import Fields
from wsss.pipeline.stages.describe import FLAGS

_REMEDY = "Run the same command of pipelines/pseudo_labels.py again: it writes the results anew."
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; color: #222;
  overflow-wrap: anywhere }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse } td, th { padding: .15em .8em; text-align: left }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em }
td.number { text-align: right; font-variant-numeric: tabular-nums }
tr:nth-child(even) { background: #f4f4f4 }
img { max-width: 100%; display: block } figure { margin: 0 0 1em }
figcaption { color: #666; font-size: .85em }
.results { font-size: 1.2em } .warning { background: #fff3cd; padding: .5em 1em }
.bar { background: #4878a8; height: .7em; display: inline-block }
"""


@dataclass(frozen=True)
class Summary:
    """The part of `summary.json` that the report shows.

    Attributes:
        options: of the job.
        model_hash: of the model.
        class_names: the foreground classes.
        labeled, failed: numbers of images with and without a mask.
        class_pixels, class_images: by the class's name, the background's included.
        warnings: what is suspicious about the labels.
        flags: number of images by the name of a flag in `images.csv`.
        empty: ids of some of the images that were left empty.
        lowest: id and quality score of the images with the lowest.
    """

    options: dict[str, Any]
    model_hash: str
    class_names: tuple[str, ...]
    labeled: int
    failed: int
    class_pixels: dict[str, int]
    class_images: dict[str, int]
    warnings: tuple[str, ...] = ()
    flags: dict[str, int] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    lowest: tuple[tuple[str, float], ...] = ()

    @classmethod
    def from_json(cls, value: Any, path: str) -> "Summary":
        """From parsed JSON.

        Raises:
            UserError: a field is missing or malformed.
        """
        fields = Fields(value, path, _REMEDY)
        images, names = fields.object("images"), fields.texts("class_names")
        every_class = ("background", *names)
        return cls(
            fields.get("options", dict),
            fields.get("model_hash", str),
            names,
            images.get("labelled", int),
            images.get("failed", int),
            {name: fields.object("class_pixels").get(name, int) for name in every_class},
            {name: fields.object("class_images").get(name, int) for name in every_class},
            fields.texts("warnings"),
            {name: fields.object("flags").get(name, int) for name in fields.get("flags", dict, {})},
            fields.texts("empty_images", ()),
            _lowest(fields, path),
        )


@dataclass(frozen=True)
class Metrics:
    """The part of `metrics.json` that the report shows.

    Attributes:
        of: the masks that `miou` and `iou` are of, in words.
        miou: mean IoU, in [0, 1].
        iou: by the class's name; None for a class that occurs nowhere.
        used: the background threshold of the masks, or None.
        best, best_miou, tuned_on: the best threshold of the sweep, its mean IoU, and the split.
        note: how to report them.
        sweep_of: the scores that the sweep is of, in words.
        thresholds, curve: the sweep, and the mean IoU at each.
    """

    of: str
    miou: float
    iou: dict[str, float | None]
    used: float | None
    best: float
    best_miou: float
    tuned_on: str
    note: str
    sweep_of: str
    thresholds: tuple[float, ...]
    curve: tuple[float, ...]

    @classmethod
    def from_json(cls, value: Any, path: str) -> "Metrics":
        """From parsed JSON; files of version 0.1.0 do not say what `miou` is of.

        Raises:
            UserError: a field is missing or malformed.
        """
        fields = Fields(value, path, _REMEDY)
        threshold, sweep, iou = (fields.object(name) for name in ("background_threshold", "sweep", "iou"))
        return cls(
            fields.get("of", str, "masks"),
            fields.get("miou", float),
            {name: iou.get(name, float, None) for name in fields.get("iou", dict)},
            threshold.get("used", float, None),
            threshold.get("best", float),
            threshold.get("best_miou", float),
            threshold.get("best_was_tuned_on", str),
            threshold.get("note", str),
            sweep.get("of", str),
            sweep.numbers("thresholds"),
            sweep.numbers("miou"),
        )


def _lowest(fields: Fields, path: str) -> tuple[tuple[str, float], ...]:
    if fields.get("quality", dict, None) is None:  # of version 0.1.0
        return ()
    entries = [Fields(each, path, _REMEDY) for each in fields.object("quality").get("lowest", list)]
    return tuple((each.get("id", str), each.get("quality", float)) for each in entries)


def write_report(folder: str, summary: Summary, metrics: Metrics | None = None) -> str:
    """Writes a page that holds everything it shows, pictures included.

    Args:
        folder: output folder of the pipeline, local or remote, with its `previews`.
        summary: of its `summary.json`.
        metrics: of its `metrics.json`, or None.

    Returns:
        Path of the page.
    """
    path = io.join(folder, "report.html")
    previews = io.list_files(io.join(io.escape(folder), "previews", "**"))
    body = [_head(summary, metrics), *(_warning(text) for text in summary.warnings)]
    body += [_pictures(previews, has_truth=metrics is not None)]
    if metrics:
        body += [_curve(metrics)]
    body += [_flags(summary), _quality(summary), _classes(summary, metrics), _options(summary.options)]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Pseudo labels</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )
    io.write_text(path, page)
    return path


def read_summary(folder: str) -> tuple[Summary, Metrics | None]:
    """The results of a finished job; the metrics where true masks are known.

    Raises:
        UserError: there are none, or a file is damaged.
    """
    path = io.join(folder, "summary.json")
    if not io.exists(path):
        raise UserError(f"{folder} holds no finished run: there is no summary.json.")
    summary = Summary.from_json(io.read_json(path), path)
    path = io.join(folder, "metrics.json")
    return summary, Metrics.from_json(io.read_json(path), path) if io.exists(path) else None


def plot_curve(thresholds: Sequence[float], miou: Sequence[float], used: float | None = None) -> bytes:
    """PNG bytes of mean IoU over the background threshold.

    Args:
        thresholds: of the background's score, ascending.
        miou: mean IoU at each, in [0, 1].
        used: the threshold of the masks, or None.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    percent = [100 * value for value in miou]
    best = max(range(len(percent)), key=percent.__getitem__)
    axes.plot(thresholds, percent, color="#4878a8")
    axes.plot(thresholds[best], percent[best], "o", color="#4878a8")
    axes.annotate(
        f"best {percent[best]:.1f} at {thresholds[best]:.2f}",
        (thresholds[best], percent[best]),
        xytext=(0, 7),
        textcoords="offset points",
        ha="center",
    )
    axes.margins(y=0.15)
    if used is not None:
        axes.axvline(used, color="#c05020", linestyle="--", linewidth=1, label=f"used: {used:g}")
        axes.legend(frameon=False, loc="lower right")
    axes.set(xlabel="background threshold", ylabel="mean IoU, %")
    axes.spines[["top", "right"]].set_visible(False)
    stream = BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _head(summary, metrics):
    options = summary.options
    results = [f"{summary.labeled} images labeled", f"{summary.failed} failed"]
    if metrics:
        results.insert(0, f"mIoU <b>{100 * metrics.miou:.1f} %</b> ({_text(metrics.of)})")
    return (
        f"<h1>Pseudo labels of {_text(options.get('data'))}, split {_text(options.get('split'))}</h1>\n"
        f'<p class="results">{" · ".join(results)}</p>\n'
        f"<p>Image labels: <b>{_text(options.get('image_labels'))}</b>. Model {_text(options.get('model'))} "
        f"({_text(summary.model_hash)}).</p>"
    )


def _warning(text):
    return f'<p class="warning">{_text(text)}</p>'


def _pictures(previews, has_truth):
    if not previews:
        return ""
    columns = ["image", "strongest class score", "pseudo label", *(["true mask"] if has_truth else [])]
    pictures = [
        f'<figure><img alt="" src="{_embed(io.read_bytes(path))}">'
        f"<figcaption>{_text(path.rsplit('/previews/', 1)[-1].removesuffix('.png'))}</figcaption></figure>"
        for path in previews
    ]
    return f"<h2>Examples: {', '.join(columns)}</h2>\n" + "\n".join(pictures)


def _curve(metrics):
    picture = _embed(plot_curve(metrics.thresholds, metrics.curve, metrics.used))
    return (
        f"<h2>Background threshold: {_text(metrics.sweep_of)}</h2>\n"
        f'<img alt="mean IoU over the threshold" src="{picture}">\n'
        f"<p>Best on {_text(metrics.tuned_on)}, of {_text(metrics.sweep_of)}: "
        f"{100 * metrics.best_miou:.1f} % at {metrics.best:.2f}. {_text(metrics.note)}</p>"
    )


def _classes(summary, metrics):
    total = max(1, sum(summary.class_pixels.values()))
    header = "<tr><th>class</th><th>images</th><th>fraction of pixels</th>"
    header += "<th>IoU, %</th><th></th></tr>" if metrics else "</tr>"
    rows = [header]
    for (name, count), color in zip(summary.class_pixels.items(), voc_palette(), strict=False):
        swatch = f'<span class="swatch" style="background:#{bytes(color).hex()}"></span>'
        cells = [f"<td>{swatch}{_text(name)}</td>", _number(summary.class_images[name])]
        cells.append(_number(f"{100 * count / total:.2f} %"))
        if metrics:
            value = metrics.iou.get(name)
            cells.append(_number("–" if value is None else f"{100 * value:.1f}"))
            cells.append(f'<td><span class="bar" style="width:{100 * (value or 0):.0f}px"></span></td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return "<h2>Classes</h2>\n<table>\n" + "\n".join(rows) + "\n</table>"


def _flags(summary):
    """Numbers of suspicious images, and ids of those left empty."""
    flagged = {name: count for name, count in summary.flags.items() if count}
    if not flagged:
        return ""
    rows = (
        f"<tr><td>{_text(name)}</td>{_number(count)}<td>{_text(FLAGS.get(name, ''))}</td></tr>"
        for name, count in flagged.items()
    )
    table = "<table>\n<tr><th>flag</th><th>images</th><th>meaning</th></tr>" + "\n".join(rows) + "\n</table>"
    empty = f"<p>Left empty: {_text(', '.join(summary.empty))}</p>" if summary.empty else ""
    return f"<h2>Suspicious images, see images.csv</h2>\n{table}\n{empty}"


def _quality(summary):
    """The images whose masks are probably the worst."""
    if not summary.lowest:
        return ""
    rows = (f"<tr><td>{_text(name)}</td>{_number(f'{score:.2f}')}</tr>" for name, score in summary.lowest)
    header = "<tr><th>image</th><th>quality</th></tr>"
    return f"<h2>Lowest quality scores, without truth</h2>\n<table>\n{header}{''.join(rows)}\n</table>"


def _options(options):
    """The options that were given or filled in; those that stayed empty are left out."""
    rows = (
        f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>"
        for name, value in sorted(options.items())
        if value not in (None, "", [])
    )
    return "<h2>Options</h2>\n<table>\n" + "\n".join(rows) + "\n</table>"


def _number(value):
    return f'<td class="number">{_text(value)}</td>'


def _text(value):
    return html.escape(str(value))


def _embed(png):
    return "data:image/png;base64," + base64.b64encode(png).decode()
