"""The path of `wsss.refine.crf` in release 0.1.0, kept for code that imports from it."""

from wsss.refine.crf import (
    CRF_PRESETS,
    CRFParameters,
    DenseCRF,
    unary_from_labels,
    unary_from_probabilities,
)

__all__ = ["CRF_PRESETS", "CRFParameters", "DenseCRF", "unary_from_labels", "unary_from_probabilities"]
