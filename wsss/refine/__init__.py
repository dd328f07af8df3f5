"""Refinement of one image at a time on the CPU: NumPy arrays in and out, compiled by Numba, no TensorFlow.

    from wsss.refine import DenseCRF, unary_from_probabilities
    refined = DenseCRF(image, "seam").infer(unary_from_probabilities(scores))

The public names are imported on first use: what needs no CRF does not wait for its compiler.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsss.refine.affinity import Affinity, edge_affinity, pair_affinity
    from wsss.refine.crf import (
        CRFParameters,
        DenseCRF,
        unary_from_labels,
        unary_from_probabilities,
    )
    from wsss.refine.instances import find_centroids, group_pixels
    from wsss.refine.labels import affinity_labels, irn_labels
    from wsss.refine.walk import random_walk

_MODULES = {
    "Affinity": "affinity",
    "CRFParameters": "crf",
    "DenseCRF": "crf",
    "affinity_labels": "labels",
    "edge_affinity": "affinity",
    "find_centroids": "instances",
    "group_pixels": "instances",
    "irn_labels": "labels",
    "pair_affinity": "affinity",
    "random_walk": "walk",
    "unary_from_labels": "crf",
    "unary_from_probabilities": "crf",
}
__all__ = [
    "Affinity",
    "CRFParameters",
    "DenseCRF",
    "affinity_labels",
    "edge_affinity",
    "find_centroids",
    "group_pixels",
    "irn_labels",
    "pair_affinity",
    "random_walk",
    "unary_from_labels",
    "unary_from_probabilities",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'wsss.refine' has no attribute {name!r}.")
    return getattr(importlib.import_module(f"wsss.refine.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
