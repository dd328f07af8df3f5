"""Helpers of the refinement benchmarks: photographs, interleaved timing, child processes."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def photographs(count, size):
    """uint8 RGB images (height, width, 3): photographs beside the project if there are any, else drawn ones.

    Returns:
        The images, and a word on where they are from.
    """
    shared = Path(os.environ.get("WSSS_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    files = sorted((shared / "data" / "voc2012_mini148" / "images").glob("*.jpg"))
    if not files:
        return [_draw(seed, size) for seed in range(count)], "drawn images (no photographs; set WSSS_SHARED)"
    from PIL import Image

    chosen = files[:: max(1, len(files) // count)][:count]
    height, width = size
    images = [np.asarray(Image.open(file).convert("RGB").resize((width, height))) for file in chosen]
    return images, "photographs (VOC 2012)"


def smooth_scores(seed, size, labels):
    """Probabilities (height, width, labels) that change slowly over the image, as CAMs do; float32."""
    height, width = size
    rng = np.random.default_rng(seed)
    small = 2 * rng.normal(size=(labels, height // 25 + 3, width // 25 + 3)).astype(np.float32)
    logits = _enlarge(_enlarge(small, height, axis=1), width, axis=2)
    scores = np.exp(logits - logits.max(axis=0))
    return np.ascontiguousarray(np.moveaxis(scores / scores.sum(axis=0), 0, 2))


def interleaved(ways, rounds, clock=time.thread_time):
    """Median seconds of each way, a dictionary of functions: a first call, then `rounds` in turn."""
    for way in ways.values():
        way()
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = clock()
            way()
            times[name].append(clock() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def child(module, *arguments):
    """Last word that `python -m module arguments` prints, as a number."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


def verdict(value, bar, stretch=None, less=False):
    """`value` against the bars, in words."""
    reached = (lambda limit: value <= limit) if less else (lambda limit: value >= limit)
    if stretch is not None and reached(stretch):
        return f"stretch {stretch:g} reached"
    return f"bar {bar:g} {'reached' if reached(bar) else 'MISSED'}"


def _enlarge(array, size, axis):
    """Linear interpolation along an axis."""
    position = np.linspace(0, array.shape[axis] - 1.001, size, dtype=np.float32)
    lower = position.astype(np.intp)
    shape = [1] * array.ndim
    shape[axis] = size
    weight = (position - lower).reshape(shape)
    return array.take(lower, axis) * (1 - weight) + array.take(lower + 1, axis) * weight


def _draw(seed, size):
    """Soft shapes of different colors with a little noise."""
    height, width = size
    rng = np.random.default_rng(seed)
    regions = smooth_scores(seed, size, 6).argmax(axis=2)
    colors = rng.integers(20, 235, (6, 3))
    shade = np.linspace(-25, 25, width)[:, None]
    image = colors[regions] + shade + rng.normal(0, 5, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8)
