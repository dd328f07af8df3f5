"""Dense CRF: sharpens the label scores of one image along its color edges, as `pydensecrf` does."""

from wsss.refine.crf.dense_crf import CRF_PRESETS, CRFParameters, DenseCRF
from wsss.refine.crf.unary import unary_from_labels, unary_from_probabilities

__all__ = ["CRF_PRESETS", "CRFParameters", "DenseCRF", "unary_from_labels", "unary_from_probabilities"]
