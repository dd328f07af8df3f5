"""The dense CRF against pydensecrf: time, agreement, memory, threads, first call.

    python -m benchmarks.dense_crf [--quick] [--rounds 7] [--photographs 3]

Times are CPU times of one thread, medians over interleaved rounds and photographs, 10 iterations, lattices
and all included; nothing is kept from one image to the next but the Gaussian lattice of the image's size.

pydensecrf no longer builds by itself. In an environment of its own, from its source distribution:

    pip install "cython<3" "setuptools<81" wheel numpy numba scipy pillow
    pip download --no-deps --no-build-isolation --no-binary :all: pydensecrf && tar xzf pydensecrf-*.tar.gz
    cd pydensecrf-*/ && rm pydensecrf/*eigen.cpp pydensecrf/densecrf.cpp    # keep eigen_impl.cpp
    pip install --no-deps --no-build-isolation .

Where it is missing, the baseline is a NumPy lattice times the ratio of the two that was recorded.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.memory import growth_megabytes
from benchmarks.refinement import child, interleaved, photographs, smooth_scores, verdict
from wsss.refine.crf import DenseCRF, unary_from_probabilities

try:
    import pydensecrf.densecrf as pydensecrf
except ImportError:
    pydensecrf = None

# Seconds of pydensecrf by those of the NumPy lattice below, by labels; AMD EPYC (Zen 5), 375 x 500.
RECORDED_RATIO = {3: 0.30, 21: 0.11}
ITERATIONS = 10


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.dense_crf", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small images, few rounds")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--photographs", type=int, default=3)
    parser.add_argument("--memory_of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--first_call", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    size = (94, 125) if options.quick else (375, 500)
    if options.memory_of:
        print(_memory(options.memory_of, size))
        return 0
    if options.first_call:
        DenseCRF(np.zeros((30, 40, 3), np.uint8)).infer(np.zeros((30, 40, 3), np.float32))
        print(time.process_time())
        return 0
    if options.quick:
        options.rounds, options.photographs = 3, 1
    images, origin = photographs(options.photographs, size)
    name = "pydensecrf" if pydensecrf else "NumPy lattice x recorded ratio; pydensecrf is not installed"
    print(f"{len(images)} {origin}, {size[0]} x {size[1]}, {options.rounds} rounds; baseline: {name}")
    print("labels    unaries  ours ms  baseline ms  ratio                      argmax equal  max |dQ|")
    for labels, unaries, bar, stretch in ((3, 1, 4, 5.4), (3, 2, 6, 8), (21, 1, 3.5, 4.2)):
        _compare(images, labels, unaries, bar, stretch, options.rounds)
    _two_threads(images, options.rounds)
    quick = ["--quick"] if options.quick else []
    for labels, bar in ((3, 30), (21, 70)):
        memory = child("benchmarks.dense_crf", "--memory_of", labels, *quick)
        print(f"peak extra memory, {labels} labels: {memory:.0f} MB ({verdict(memory, bar, less=True)})")
    seconds = min(child("benchmarks.dense_crf", "--first_call") for _ in range(3))
    print(f"fresh process from its start to the end of the first call, warm cache: {seconds:.2f} s ", end="")
    print(f"({verdict(seconds, 1.5, less=True)})")
    return 0


def _compare(images, labels, unaries, bar, stretch, rounds):
    ours, theirs, equal, error = [], [], [], []
    for seed, image in enumerate(images):
        energies = [
            unary_from_probabilities(smooth_scores(seed + i, image.shape[:2], labels)) for i in range(unaries)
        ]
        ways = {
            "ours": lambda image=image, energies=energies: DenseCRF(image).infer(energies, ITERATIONS),
            "baseline": lambda image=image, energies=energies: [_baseline(image, one) for one in energies],
        }
        factor = 1 if pydensecrf else RECORDED_RATIO[labels]
        medians = interleaved(ways, rounds)
        ours.append(medians["ours"])
        theirs.append(medians["baseline"] * factor)
        for one, other in zip(ways["ours"](), ways["baseline"]()):
            equal.append((one.argmax(axis=2) == other.argmax(axis=2)).mean())
            error.append(np.abs(one - other).max())
    ratio = np.median(np.divide(theirs, ours))
    print(
        f"{labels:6d} {unaries:10d} {1e3 * np.median(ours):8.1f} {1e3 * np.median(theirs):12.1f} "
        f"{ratio:6.2f} ({verdict(ratio, bar, stretch):20s}) {100 * min(equal):10.4f} %  {max(error):.1e}"
    )


def _two_threads(images, rounds):
    """Wall time: two images on two threads against one after the other."""
    image = images[0]
    energies = unary_from_probabilities(smooth_scores(0, image.shape[:2], 3))

    def refine(_):
        return DenseCRF(image).infer(energies, ITERATIONS)

    with ThreadPoolExecutor(2) as pool:
        ways = {"one": lambda: list(map(refine, range(2))), "two": lambda: list(pool.map(refine, range(2)))}
        medians = interleaved(ways, rounds, time.perf_counter)
    speed = medians["one"] / medians["two"]
    print(f"two images on two threads against one, wall time: {speed:.2f} ({verdict(speed, 1.6, 1.9)})")


def _memory(labels, size):
    """Megabytes by which the peak grows; in a process of its own, compiled code loaded before."""
    image = photographs(1, size)[0][0]
    energies = np.random.default_rng(0).random((*size, labels), np.float32)  # made without a temporary array
    DenseCRF(image[:40, :40]).infer(energies[:40, :40], 1)
    return growth_megabytes(lambda: DenseCRF(image).infer(energies, ITERATIONS))


def _baseline(image, energies):
    """Probabilities (height, width, labels) by pydensecrf, or by the NumPy lattice."""
    height, width, labels = energies.shape
    if not pydensecrf:
        return _numpy_crf(image, energies)
    crf = pydensecrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(energies.reshape(-1, labels).T))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.array(image), compat=10)
    return np.array(crf.inference(ITERATIONS)).T.reshape(height, width, labels)


def _numpy_crf(image, energies):
    """The same CRF in NumPy: lattices by sorting, sums by `bincount`."""
    height, width, labels = energies.shape
    y, x = (axis.ravel() for axis in np.mgrid[:height, :width])
    colors = image.reshape(-1, 3) / 13
    kernels = [
        (3, _numpy_filter(np.stack([x / 3, y / 3], axis=1))),
        (10, _numpy_filter(np.column_stack([x / 80, y / 80, colors]))),
    ]
    logits = -energies.reshape(-1, labels)
    result = _softmax(logits)
    for _ in range(ITERATIONS):
        result = _softmax(logits + sum(strength * apply(result) for strength, apply in kernels))
    return result.reshape(energies.shape)


def _numpy_filter(points):
    """Function of (pixels, labels): the normalized permutohedral filter."""
    count, d = points.shape
    scale = np.sqrt(2 / 3) * (d + 1) / np.sqrt([(i + 1) * (i + 2) for i in range(d)])
    scaled = (points * scale).astype(np.float32)
    tails = np.cumsum(scaled[:, ::-1], axis=1)[:, ::-1]
    elevated = np.column_stack([tails, np.zeros(count, np.float32)])
    elevated[:, 1:] -= np.arange(1, d + 1, dtype=np.float32) * scaled
    base = np.rint(elevated / (d + 1)).astype(np.int64)
    surplus = base.sum(axis=1, keepdims=True)
    rank = np.argsort(np.argsort(base * (d + 1) - elevated, axis=1, kind="stable"), axis=1) + surplus
    base += (rank < 0).astype(np.int64) - (rank > d)
    rank %= d + 1
    order = np.argsort(-rank, axis=1)
    remainder = np.take_along_axis(elevated / (d + 1) - base, order, axis=1)
    weights = np.diff(remainder, axis=1, prepend=remainder[:, -1:] - 1)
    base = base * (d + 1)
    base -= base.min(axis=0) - 4 * (d + 1)
    strides = np.cumprod([1, *(base[:, :d].max(axis=0) + 4 * (d + 1))])[:d].astype(np.int64)
    steps = strides.sum() - (d + 1) * np.append(strides, 0)
    first = (base[:, :d] @ strides)[:, None]
    keys = np.concatenate([first, first + np.cumsum(steps[order[:, :d]], axis=1)], axis=1)
    vertices, offsets = np.unique(keys, return_inverse=True)
    offsets = offsets.reshape(keys.shape)
    neighbors = []
    for step in np.concatenate([steps, -steps]):
        place = np.searchsorted(vertices, vertices + step).clip(max=len(vertices) - 1)
        neighbors.append(np.where(vertices[place] == vertices + step, place, len(vertices)))
    gain = np.float32(1 / (1 + 2.0**-d))

    def apply(values):
        lattice = np.zeros((len(vertices) + 1, values.shape[1]), np.float32)
        for label in range(values.shape[1]):
            spread = (weights * values[:, label : label + 1]).ravel()
            lattice[:-1, label] = np.bincount(offsets.ravel(), spread, len(vertices))
        for axis in range(d + 1):
            sides = lattice[neighbors[axis]] + lattice[neighbors[axis + d + 1]]
            lattice[:-1] += 0.5 * sides
        return gain * sum(weights[:, k, None] * lattice[offsets[:, k]] for k in range(d + 1))

    norm = 1 / np.sqrt(apply(np.ones((count, 1), np.float32)) + 1e-20)
    return lambda values: norm * apply(norm * values)


def _softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    sys.exit(main())
