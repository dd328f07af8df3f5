"""Refinement of one image at a time on the CPU: arrays in, arrays out.

The public names are imported on first use: what needs no CRF does not wait for its compiler.
"""

import importlib

__all__ = ["CRFParameters", "DenseCRF", "unary_from_labels", "unary_from_probabilities"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module 'wsss.refine' has no attribute {name!r}.")
    return getattr(importlib.import_module("wsss.refine.crf.dense_crf"), name)


def __dir__():
    return sorted([*globals(), *__all__])
