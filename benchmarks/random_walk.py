"""The random walk against squaring the dense matrix, and IRN's path affinity against a maximum a pixel.

    python -m benchmarks.random_walk [--quick] [--rounds 5]

256 steps, beta 8, three classes; building the normalized stencil, or the normalized matrix, is included. The
baseline is what AffinityNet and IRN run, in NumPy: eight squarings with two threads of the BLAS (state
OPENBLAS_NUM_THREADS=2). Seconds are CPU time, that of the two threads halved, so that other work on the
machine does not count. At 94 x 125 an eighth of one squaring is measured and counted 64 times; at 256 x 256
the matrix alone would take 17 GB.
"""

import argparse
import os
import statistics
import sys
import time

import numpy as np

from benchmarks.memory import growth_megabytes
from benchmarks.refinement import child, interleaved, verdict
from wsss.common.pixel_pairs import pair_offsets, path_pixels
from wsss.refine.affinity import edge_affinity
from wsss.refine.walk import random_walk

STEPS, BETA, CLASSES = 256, 8, 3
THREADS = min(2, os.cpu_count() or 1)


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.random_walk", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory_of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.memory_of:
        print(_memory(options.memory_of))
        return 0
    rounds = 2 if options.quick else options.rounds
    print("size       ours ms  dense s  ratio                          difference from float64, relative")
    if options.quick:
        _compare((24, 32), rounds, 1, None, fraction=1)
    else:
        _compare((47, 63), rounds, 300, 890, fraction=1)
        _compare((94, 125), 1, 4000, 11000, fraction=1 / 8)
    side = 64 if options.quick else 256
    scores, affinity = _case((side, side))
    seconds = interleaved({"ours": lambda: random_walk(scores, affinity, BETA, STEPS)}, rounds)["ours"]
    print(f"{side} x {side}: {seconds:.3f} s ({verdict(seconds, 1, 0.3, less=True)}), ", end="")
    memory = child("benchmarks.random_walk", "--memory_of", side)
    print(f"peak extra memory {memory:.0f} MB ({verdict(memory, 100, less=True)})")
    _compare_paths((24, 32) if options.quick else (94, 125), rounds)
    return 0


def _case(size):
    """Scores and the affinity of an edge map with some structure."""
    rng = np.random.default_rng(0)
    edge = rng.random(size, np.float32) ** 2
    edge[:, size[1] // 3] = edge[size[0] // 2] = 0.95
    return rng.random((*size, CLASSES), np.float32), edge_affinity(edge)


def _compare(size, rounds, bar, stretch, fraction):
    """One row; `fraction` of a squaring is measured."""
    scores, affinity = _case(size)
    dense = _dense(affinity)
    times = {"ours": [], "dense": []}
    random_walk(scores, affinity, BETA, STEPS)
    for _ in range(rounds):
        for _ in range(5):
            start = time.thread_time()
            walked = random_walk(scores, affinity, BETA, STEPS)
            times["ours"].append(time.thread_time() - start)
        start = time.process_time()
        transition = dense**BETA
        transition /= transition.sum(axis=0)
        built = time.process_time()
        if fraction == 1:
            for _ in range(8):
                transition = transition @ transition
            squared = (time.process_time() - built) / THREADS
        else:
            _ = transition @ transition[:, : int(fraction * len(transition))]
            squared = (time.process_time() - built) / THREADS * 8 / fraction
        times["dense"].append(built - start + squared)
    ours, theirs = (statistics.median(times[name]) for name in ("ours", "dense"))
    error = "not measured"
    if fraction == 1:
        exact = (dense.astype(np.float64) ** BETA) / (dense.astype(np.float64) ** BETA).sum(axis=0)
        flat = scores.reshape(-1, CLASSES).T.astype(np.float64)
        for _ in range(STEPS):
            flat = flat @ exact
        flat = flat.T.reshape(scores.shape)
        published = (scores.reshape(-1, CLASSES).T @ transition).T.reshape(scores.shape)
        error = f"{_relative(walked, flat):.1e} (float32 squaring: {_relative(published, flat):.1e})"
    ratio = theirs / ours
    part = "" if fraction == 1 else f"; {fraction} of a squaring"
    print(
        f"{size[0]:3d} x {size[1]:3d} {1e3 * ours:8.2f} {theirs:8.2f} {ratio:7.0f} "
        f"({verdict(ratio, bar, stretch):22s}) {error}{part}"
    )


def _relative(ours, exact):
    return np.abs(ours - exact).max() / np.abs(exact).max()


def _dense(affinity):
    """All affinities as a float32 matrix."""
    height, width = affinity.weights.shape[1:]
    matrix = np.eye(height * width, dtype=np.float32)
    for (dy, dx), weights in zip(affinity.offsets, affinity.weights):
        y, x = np.mgrid[: height - dy, max(0, -dx) : min(width, width - dx)]
        one, other = (y * width + x).ravel(), ((y + dy) * width + x + dx).ravel()
        matrix[one, other] = matrix[other, one] = weights[y, x].ravel()
    return matrix


def _compare_paths(size, rounds):
    edge = np.random.default_rng(0).random(size, np.float32)

    def pixel_by_pixel():
        height, width = size
        padded = np.pad(edge, 4, constant_values=1)
        rows = []
        for dy, dx in pair_offsets(5):
            pixels = [padded[4 + y : 4 + y + height, 4 + x : 4 + x + width] for y, x in path_pixels(dy, dx)]
            rows.append(1 - np.max(pixels, axis=0))
        return np.stack(rows)

    ways = {"ours": lambda: edge_affinity(edge).weights, "pixels": pixel_by_pixel}
    medians = interleaved(ways, rounds)
    equal = all(
        np.array_equal(one[: size[0] - dy, max(0, -dx) : size[1] - max(0, dx)],
                       two[: size[0] - dy, max(0, -dx) : size[1] - max(0, dx)])
        for (dy, dx), one, two in zip(pair_offsets(5), ways["ours"](), pixel_by_pixel())
    )  # fmt: skip
    print(
        f"path affinity {size[0]} x {size[1]}: {1e3 * medians['ours']:.2f} ms, "
        f"a maximum over all pixels of each path {1e3 * medians['pixels']:.2f} ms, equal: {equal}"
    )


def _memory(side):
    """Megabytes by which the peak grows; in a process of its own, compiled code loaded before."""
    random_walk(*_case((8, 8)), BETA, STEPS)
    scores, affinity = _case((side, side))
    return growth_megabytes(lambda: random_walk(scores, affinity, BETA, STEPS))


if __name__ == "__main__":
    sys.exit(main())
