"""Training labels for the affinity networks, from refined scores at two levels of caution.

A pixel is labelled only where both readings of the same CAM agree, one with much background and one with
little; all others are 255 and take no part in the training.
"""

import numpy as np

from wsss.common.constants import IGNORE


def affinity_labels(low, high, side=8, least=1e-5):
    """AffinityNet's labels at the resolution of its features.

    The scores are averaged over squares. A square is a class where the CRF of the low alpha (much background)
    finds it and that of the high alpha (little background) finds anything but background; background where
    the latter finds it; else undecided, as is what lies outside the image (no scores).

    Source: Ahn & Kwak, CVPR 2018, section 3.2, and the released code.

    Args:
        low: float (height, width, labels), probabilities with the low alpha, background first.
        high: the same with the high alpha.
        side: of the squares, pixels, >= 1; those cut by the edge of the image are filled with zeros.
        least: a square with no score above this is undecided.

    Returns:
        uint8 (ceil(height / side), ceil(width / side)): the index of a label, or 255.

    Raises:
        ValueError: the shapes differ, or there are no labels or more than 255.
    """
    low, high = _check_scores(low, high)
    if side < 1:
        raise ValueError(f"`side` must be 1 or more. Received: {side}.")
    low, high = _mean_of_squares(low, side), _mean_of_squares(high, side)
    sure, cautious = low.argmax(axis=-1), high.argmax(axis=-1)
    labels = np.where(sure == 0, IGNORE, sure)
    labels[cautious == 0] = 0
    labels[np.maximum(low.max(axis=-1), high.max(axis=-1)) < least] = IGNORE
    return labels.astype(np.uint8)


def combine_confident(foreground, background):
    """IRN's labels: a class where the strict reading finds one, background where both find it, else 255.

    Source: Ahn, Cho & Kwak, CVPR 2019, section 5.1, and the released code.

    Args:
        foreground: integers (height, width), the CRF's labels with a high background score; 0 = background.
        background: the same with a low background score.

    Returns:
        uint8 (height, width).

    Raises:
        ValueError: the shapes differ.
    """
    foreground, background = np.asarray(foreground), np.asarray(background)
    if foreground.shape != background.shape:
        raise ValueError(
            f"Both label maps must be of the same shape. Received: {foreground.shape}, {background.shape}."
        )
    labels = np.where((foreground == 0) & (background == 0), 0, IGNORE)
    return np.where(foreground > 0, foreground, labels).astype(np.uint8)


def irn_labels(scores, crf, foreground_threshold=0.30, background_threshold=0.05, confidence=0.7):
    """IRN's training labels from the CAM of one image.

    Args:
        scores: float (height, width, classes), in [0, 1]: of the classes that the image holds.
        crf: the image's `DenseCRF`, published with the constants of the preset `irn`.
        foreground_threshold: background score of the strict reading, in [0, 1].
        background_threshold: of the other one, below it.
        confidence: of the CRF in the label maps, in (0, 1).

    Returns:
        uint8 (height, width): 0 background, 1.. the index of a class in `scores` + 1, 255 undecided.

    Raises:
        ValueError: the scores are not finite, or not of the image's size.
    """
    scores = np.asarray(scores)
    if scores.ndim != 3 or scores.shape[:2] != tuple(crf.shape) or not np.isfinite(scores).all():
        raise ValueError(
            "`scores` must be finite (height, width, classes) of the size of the image. "
            f"Received: {scores.shape} for an image of {tuple(crf.shape)}."
        )
    refined = []
    for threshold in (foreground_threshold, background_threshold):
        padded = np.concatenate([np.full((*scores.shape[:2], 1), threshold, scores.dtype), scores], axis=2)
        refined.append(crf.refine_labels(padded.argmax(axis=2), padded.shape[2], confidence))
    return combine_confident(*refined)


def _check_scores(low, high):
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    if low.shape != high.shape or low.ndim != 3 or not low.size or low.shape[2] > IGNORE:
        raise ValueError(
            "Both scores must be of the same shape (height, width, labels), with 1 to 255 labels. "
            f"Received: {low.shape} and {high.shape}."
        )
    return low, high


def _mean_of_squares(scores, side):
    """Mean over squares; those at the right and bottom edge are filled up with zeros."""
    height, width, labels = scores.shape
    rows, columns = -(-height // side), -(-width // side)
    padded = np.pad(scores, [(0, rows * side - height), (0, columns * side - width), (0, 0)])
    return padded.reshape(rows, side, columns, side, labels).mean(axis=(1, 3))
