"""The dense CRF's explicit vectors against the same filter in plain Numba loops.

    python -m benchmarks.crf_vectors [--quick] [--rounds 7]

It justifies `wsss.refine.simd`. Both run 10 iterations on the same lattices, which are built anew each time.
The plain one loops over the labels of a vertex and leaves vectors to LLVM (fastmath). CPU time of one thread,
medians over interleaved rounds.
"""

import argparse
import sys

import numpy as np
from numba import njit

from benchmarks.refinement import interleaved, photographs, smooth_scores, verdict
from wsss.refine import DenseCRF, unary_from_probabilities

ITERATIONS = 10


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.crf_vectors", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small image, few rounds")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    size = (94, 125) if options.quick else (375, 500)
    (image,), origin = photographs(1, size)
    print(f"1 of {origin}, {size[0]} x {size[1]}")
    print("labels  vectors ms  plain ms  ratio                  max |dQ|")
    for labels in (3, 21):
        unary = unary_from_probabilities(smooth_scores(0, size, labels))
        ways = {
            "vectors": lambda unary=unary: DenseCRF(image).infer(unary, ITERATIONS),
            "plain": lambda unary=unary: plain_inference(image, unary),
        }
        difference = np.abs(ways["vectors"]() - ways["plain"]()).max()
        medians = interleaved(ways, 3 if options.quick else options.rounds)
        vectors, plain = 1e3 * medians["vectors"], 1e3 * medians["plain"]
        ratio = plain / vectors
        print(f"{labels:6d} {vectors:11.1f} {plain:9.1f} {ratio:6.2f} ({verdict(ratio, 2)}) {difference:.1e}")
    return 0


def plain_inference(image, unary):
    """What `DenseCRF(image).infer(unary)` gives, on the same lattices."""
    crf = DenseCRF(image)
    labels = unary.shape[2]
    logits = -unary.reshape(-1, labels)
    probabilities = np.empty_like(logits)
    _softmax(logits, probabilities)
    for _ in range(ITERATIONS):
        updated = logits.copy()
        for lattice in (crf._bilateral, crf._gaussian):
            here, there = np.zeros((2, lattice.vertices + 1, labels), np.float32)
            _splat(lattice.offsets, lattice.weights, probabilities, here)
            _slice(lattice.offsets, lattice.weights, _blur(lattice.neighbors, here, there), updated)
        _softmax(updated, probabilities)
    return probabilities.reshape(unary.shape)


@njit(nogil=True, cache=True, fastmath=True)
def _splat(offsets, weights, values, lattice):
    for pixel in range(offsets.shape[0]):
        for k in range(offsets.shape[1]):
            vertex, weight = offsets[pixel, k], weights[pixel, k]
            for label in range(values.shape[1]):
                lattice[vertex, label] += weight * values[pixel, label]


@njit(nogil=True, cache=True, fastmath=True)
def _blur(neighbors, source, target):
    half = np.float32(0.5)
    for axis in range(neighbors.shape[0]):
        for vertex in range(neighbors.shape[1]):
            one, other = neighbors[axis, vertex, 0], neighbors[axis, vertex, 1]
            for label in range(source.shape[1]):
                sides = source[one, label] + source[other, label]
                target[vertex, label] = source[vertex, label] + half * sides
        source, target = target, source
    return source


@njit(nogil=True, cache=True, fastmath=True)
def _slice(offsets, weights, lattice, values):
    for pixel in range(offsets.shape[0]):
        for k in range(offsets.shape[1]):
            vertex, weight = offsets[pixel, k], weights[pixel, k]
            for label in range(values.shape[1]):
                values[pixel, label] += weight * lattice[vertex, label]


@njit(nogil=True, cache=True, fastmath=True)
def _softmax(logits, probabilities):
    for pixel in range(logits.shape[0]):
        top = logits[pixel, 0]
        for label in range(logits.shape[1]):
            top = max(top, logits[pixel, label])
        total = np.float32(0)
        for label in range(logits.shape[1]):
            probabilities[pixel, label] = np.exp(logits[pixel, label] - top)
            total += probabilities[pixel, label]
        for label in range(logits.shape[1]):
            probabilities[pixel, label] /= total


if __name__ == "__main__":
    sys.exit(main())
