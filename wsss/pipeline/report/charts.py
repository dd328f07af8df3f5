"""Line charts as SVG: what a template draws, in the coordinates of the picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Of the picture: legible at the width of a telephone, where it is drawn one to one.
WIDTH, HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 348, 24, 190


@dataclass(frozen=True)
class Tick:
    """A mark on an axis.

    Attributes:
        position: in the picture, along the axis.
        text: beside it.
    """

    position: float
    text: str


@dataclass(frozen=True)
class LineChart:
    """A curve with its axes.

    Attributes:
        label: what it shows, in words, for those who cannot see it.
        x_label, y_label: of the axes.
        points: of the curve, as SVG's `polyline` takes them.
        x_ticks, y_ticks: marks on the axes.
        peak: position of a point that is marked, and its text; None marks none.
        line: position of a vertical line, and its text; None draws none.
        frame: left, right, top and bottom of the area within the axes.
    """

    label: str
    x_label: str
    y_label: str
    points: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    peak: tuple[float, float, str] | None
    line: tuple[float, str] | None
    frame: tuple[int, int, int, int] = (_LEFT, _RIGHT, _TOP, _BOTTOM)
    width: int = WIDTH
    height: int = HEIGHT


def line_chart(
    x: Sequence[float],
    y: Sequence[float],
    *,
    label: str,
    x_label: str,
    y_label: str,
    peak: str | None = None,
    line: tuple[float, str] | None = None,
) -> LineChart:
    """The `LineChart` of a curve.

    Args:
        x: ascending, two values at least.
        y: as many, finite.
        label: what it shows, in words.
        x_label, y_label: of the axes.
        peak: text at the highest point, the leftmost of several; None marks none.
        line: position on the x axis of a vertical line, and its text.
    """
    low, high = min(y), max(y)
    margin = 0.12 * (high - low) or 1.0
    low, high = (max(0.0, low - margin) if low >= 0 else low - margin), high + margin
    first, last = x[0], x[-1]

    def across(value: float) -> float:
        return round(_LEFT + (value - first) / (last - first) * (_RIGHT - _LEFT), 1)

    def up(value: float) -> float:
        return round(_BOTTOM - (value - low) / (high - low) * (_BOTTOM - _TOP), 1)

    best = max(range(len(y)), key=y.__getitem__)
    shown = line is not None and first <= line[0] <= last
    return LineChart(
        label,
        x_label,
        y_label,
        " ".join(f"{across(a)},{up(b)}" for a, b in zip(x, y, strict=True)),
        tuple(Tick(across(value), text) for value, text in _ticks(first, last)),
        tuple(Tick(up(value), text) for value, text in _ticks(low, high)),
        None if peak is None else (across(x[best]), up(y[best]), peak),
        (across(line[0]), line[1]) if line is not None and shown else None,
    )


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Some round values, eight at most, of an axis, and their texts."""
    step = 10 ** math.floor(math.log10(high - low))
    step = next(
        step * factor for factor in (0.1, 0.2, 0.25, 0.5, 1, 2) if (high - low) / (step * factor) <= 8
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(number * step, f"{number * step:g}") for number in range(first, last + 1)]
