"""Compiles the kernels of the dense CRF, the random walk and the centroids, for all processes to come.

    python -m wsss.refine.warm_up

Numba keeps compiled kernels in files beside the modules, or in the folder that the environment variable
`NUMBA_CACHE_DIR` names, and takes them from there as long as the modules and the processor are the same. The
worker image, `pipelines/Dockerfile`, is built with this command, so that no worker process compiles.
"""

import sys
from collections.abc import Iterator

import numpy as np
from numba.core.dispatcher import Dispatcher

from wsss.refine import instances, walk
from wsss.refine.affinity import edge_affinity, pair_affinity, pair_offsets
from wsss.refine.crf import DenseCRF, dense_crf, lattice, mean_field

_MODULES = (instances, walk, dense_crf, lattice, mean_field)
# A CRF's kernels are compiled for vectors of 4, 8, 16 and 24 lanes, which follow from the number of labels.
_LABELS = (4, 8, 16, 24)


def compile_kernels() -> int:
    """Calls each kernel with each kind of argument that refinement gives it; the number that were compiled.

    Those that were found in the cache of Numba are not counted.
    """
    before = count_compiled()
    image = np.zeros((8, 9, 3), np.uint8)
    image[:, 4:] = np.random.default_rng(0).integers(256, size=(8, 5, 3))
    for preset in ("seam", "fast"):
        for labels in _LABELS:
            DenseCRF(image, preset).infer(np.zeros((8, 9, labels), np.float32), iterations=1)
    _grow_lattice()
    for affinity in (
        pair_affinity(np.ones((8, 9, len(pair_offsets(5))), np.float32), 5),
        edge_affinity(np.zeros((8, 9), np.float32)),
    ):
        walk.random_walk(np.ones((8, 9, 2), np.float32), affinity, steps=4)
    instances.find_centroids(np.zeros((8, 9, 2), np.float32), iterations=1)
    return count_compiled() - before


def count_compiled() -> int:
    """How many kernels, of those for each kind of argument, this process has compiled so far."""
    return sum(sum(kernel.stats.cache_misses.values()) for kernel in kernels())


def kernels() -> Iterator[Dispatcher]:
    """The functions of `wsss.refine` that Numba compiles."""
    for module in _MODULES:
        for value in vars(module).values():
            if isinstance(value, Dispatcher) and value.py_func.__module__ == module.__name__:
                yield value


def _grow_lattice():
    """Builds a lattice of many colors, whose table of vertices outgrows its first size."""
    colors = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    DenseCRF(colors, bilateral_width=4.0, color_width=1.0)


def main() -> int:
    """Compiles the kernels, and says how many; the exit code."""
    compiled = compile_kernels()
    print(f"{compiled} kernels compiled, {sum(len(kernel.signatures) for kernel in kernels())} at hand.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
