"""HTML report of a folder of pseudo labels: pictures, the threshold curve, the classes, the options."""

import base64
import html
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from wsss.common import io

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse } td, th { padding: .15em .8em; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums }
tr:nth-child(even) { background: #f4f4f4 }
img { max-width: 100%; display: block } figure { margin: 0 0 1em }
figcaption { color: #666; font-size: .85em }
.figures { font-size: 1.2em } .warning { background: #fff3cd; padding: .5em 1em }
.bar { background: #4878a8; height: .7em; display: inline-block }
"""


def write_report(folder: str, summary: Mapping[str, Any], metrics: Mapping[str, Any] | None = None) -> str:
    """Writes a page that holds everything it shows, pictures included.

    Args:
        folder: output folder of the pipeline, local or remote, with its `previews`.
        summary: the content of its `summary.json`.
        metrics: the content of its `metrics.json`, or None.

    Returns:
        Path of the page.
    """
    path = io.join(folder, "report.html")
    previews = io.list_files(io.join(io.escape(folder), "previews", "**"))
    body = [_head(summary, metrics), *(_warning(text) for text in summary["warnings"])]
    body += [_pictures(previews, has_truth=metrics is not None)]
    if metrics:
        body += [_curve(metrics)]
    body += [_classes(summary, metrics), _options(summary)]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Pseudo labels</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )
    io.write_text(path, page)
    return path


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
        axes.legend(frameon=False)
    axes.set(xlabel="background threshold", ylabel="mean IoU, %")
    axes.spines[["top", "right"]].set_visible(False)
    stream = BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _head(summary, metrics):
    options, images = summary["options"], summary["images"]
    figures = [f"{images['labelled']} images labelled", f"{images['failed']} failed"]
    if metrics:
        figures.insert(0, f"mIoU <b>{100 * metrics['miou']:.1f} %</b>")
    return (
        f"<h1>Pseudo labels of {_text(options['data'])}, split {_text(options['split'])}</h1>\n"
        f'<p class="figures">{" · ".join(figures)}</p>\n'
        f"<p>Image labels: <b>{_text(options['image_labels'])}</b>. Model {_text(options['model'])} "
        f"({_text(summary['model_hash'])}).</p>"
    )


def _warning(text):
    return f'<p class="warning">{_text(text)}</p>'


def _pictures(previews, has_truth):
    if not previews:
        return ""
    columns = ["image", "strongest class score", "pseudo label", *(["true mask"] if has_truth else [])]
    figures = [
        f'<figure><img alt="" src="{_embed(io.read_bytes(path))}">'
        f"<figcaption>{_text(path.rsplit('/previews/', 1)[-1].removesuffix('.png'))}</figcaption></figure>"
        for path in previews
    ]
    return f"<h2>Examples: {', '.join(columns)}</h2>\n" + "\n".join(figures)


def _curve(metrics):
    threshold, sweep = metrics["background_threshold"], metrics["sweep"]
    picture = _embed(plot_curve(sweep["thresholds"], sweep["miou"], threshold["used"]))
    return (
        f'<h2>Background threshold</h2>\n<img alt="mean IoU over the threshold" src="{picture}">\n'
        f"<p>Best on {_text(threshold['best_was_tuned_on'])}: {100 * threshold['best_miou']:.1f} % at "
        f"{threshold['best']:.2f}. {_text(threshold['note'])}</p>"
    )


def _classes(summary, metrics):
    pixels = summary["class_pixels"]
    total = max(1, sum(pixels.values()))
    header = "<tr><th>class</th><th>images</th><th>share of pixels</th>"
    header += "<th>IoU, %</th><th></th></tr>" if metrics else "</tr>"
    rows = [header]
    for name in ("background", *summary["class_names"]):
        count = pixels[name]
        cells = [f"<td>{_text(name)}</td>", _number(summary["class_images"][name])]
        cells.append(_number(f"{100 * count / total:.2f} %"))
        if metrics:
            value = metrics["iou"][name]
            cells.append(_number("–" if value is None else f"{100 * value:.1f}"))
            cells.append(f'<td><span class="bar" style="width:{100 * (value or 0):.0f}px"></span></td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return "<h2>Classes</h2>\n<table>\n" + "\n".join(rows) + "\n</table>"


def _options(summary):
    rows = (
        f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>"
        for name, value in sorted(summary["options"].items())
    )
    return "<h2>Options</h2>\n<table>\n" + "\n".join(rows) + "\n</table>"


def _number(value):
    return f'<td class="number">{_text(value)}</td>'


def _text(value):
    return html.escape(str(value))


def _embed(png):
    return "data:image/png;base64," + base64.b64encode(png).decode()
