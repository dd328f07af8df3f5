"""Pseudo labels that the affinity networks are trained on: those of confident pixels, 255 elsewhere.

A pixel is confident where two readings of the same CAM agree, one with much background and one with little.
"""

import numpy as np

from wsss.common.constants import IGNORE
from wsss.refine.crf.dense_crf import DenseCRF

MIN_SCORE = 1e-5  # below it in every label a pixel counts as having no scores, as published


def affinity_labels(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Confident labels for AffinityNet, from label scores with a low and a high background exponent alpha.

    A pixel is the class that wins with the low alpha (much background); background where that wins even with
    the high alpha (little background); and 255 where the two disagree, or where it has no scores at all.

    Source: Ahn & Kwak, CVPR 2018, section 3.2, and the released code, which applies this rule to means over
    8 x 8 pixels; give such means for the published result.

    Args:
        low: float (height, width, labels), scores with the low alpha, background first.
        high: the same with the high alpha.

    Returns:
        uint8 (height, width): the index of a label, or 255.

    Raises:
        ValueError: the shapes differ, or there are no labels or more than 255.

    Example:
        >>> low, high = np.array([[[0.6, 0.4], [0.2, 0.8]]]), np.array([[[0.3, 0.7], [0.1, 0.9]]])
        >>> affinity_labels(low, high)
        array([[255,   1]], dtype=uint8)
    """
    low, high = _check_scores(low, high)
    best_low, best_high = low.argmax(axis=-1), high.argmax(axis=-1)
    labels = np.where(best_low == 0, IGNORE, best_low)
    labels[best_high == 0] = 0
    labels[np.maximum(low.max(axis=-1), high.max(axis=-1)) < MIN_SCORE] = IGNORE
    return labels.astype(np.uint8)


def irn_labels(
    scores: np.ndarray,
    crf: DenseCRF,
    foreground_threshold: float = 0.30,
    background_threshold: float = 0.05,
    confidence: float = 0.7,
) -> np.ndarray:
    """Confident labels for IRN: the label maps at two background thresholds, each refined by a dense CRF.

    A pixel is the class found at the high threshold; background where both find background; else 255.

    Source: Ahn, Cho & Kwak, CVPR 2019, section 4.2, and the released code.

    Args:
        scores: float (height, width, classes), in [0, 1], of the classes that the image holds.
        crf: the image's `DenseCRF`; published with the preset `irn`.
        foreground_threshold: background score of the reading that decides on classes, in [0, 1].
        background_threshold: background score of the reading that decides on background, below the other one.
        confidence: of the CRF in the label maps, in (0, 1).

    Returns:
        uint8 (height, width): 0 background, 1.. the index of a class in `scores` + 1, 255 ignore.

    Raises:
        ValueError: the scores are not finite, not of the image's size, or of more than 254 classes.

    Example:
        >>> scores = np.zeros((4, 6, 1), np.float32)
        >>> scores[:, 3:] = 1
        >>> irn_labels(scores, DenseCRF(np.repeat(scores * 200, 3, axis=2).astype(np.uint8), "irn"))[0]
        array([0, 0, 0, 1, 1, 1], dtype=uint8)
    """
    scores = np.asarray(scores)
    if scores.ndim != 3 or scores.shape[:2] != tuple(crf.shape) or not np.isfinite(scores).all():
        raise ValueError(
            "`scores` must be finite (height, width, classes) of the size of the image. "
            f"Received: {scores.shape} for an image of {tuple(crf.shape)}."
        )
    if scores.shape[2] >= IGNORE:
        raise ValueError(f"`scores` must be of at most {IGNORE - 1} classes. Received: {scores.shape[2]}.")
    refined = []
    for threshold in (foreground_threshold, background_threshold):
        stacked = np.concatenate([np.full((*scores.shape[:2], 1), threshold, scores.dtype), scores], axis=2)
        refined.append(crf.refine_labels(stacked.argmax(axis=2), stacked.shape[2], confidence))
    foreground, background = refined
    labels = np.where((foreground == 0) & (background == 0), 0, IGNORE)
    return np.where(foreground > 0, foreground, labels).astype(np.uint8)


def _check_scores(low, high):
    low, high = np.asarray(low), np.asarray(high)
    if low.shape != high.shape or low.ndim != 3 or not low.size or low.shape[2] > IGNORE:
        raise ValueError(
            "Both scores must be of the same shape (height, width, labels), with 1 to 255 labels. "
            f"Received: {low.shape} and {high.shape}."
        )
    return low, high
