"""Unaries of a dense CRF: the energy of each label at each pixel, from probabilities or a label map."""

import numpy as np


def unary_from_probabilities(probabilities: np.ndarray, smallest: float = 1e-5) -> np.ndarray:
    """Energies `-log p`, with p not below `smallest`.

    Args:
        probabilities: float (height, width, labels), in [0, 1].
        smallest: > 0, so that no energy is infinite.

    Returns:
        float32 (height, width, labels).

    Raises:
        ValueError: a value is NaN, or outside [0, 1].

    Example:
        >>> unary_from_probabilities(np.array([[[0.5, 0.5]]])).round(3)
        array([[[0.693, 0.693]]], dtype=float32)
    """
    probabilities = np.asarray(probabilities, np.float32)
    if probabilities.size and not (probabilities.min() >= 0 and probabilities.max() <= 1.0001):
        raise ValueError(
            "Probabilities must lie in [0, 1], without NaN. "
            f"Received: {probabilities.min()} to {probabilities.max()}."
        )
    energies = np.clip(probabilities, smallest, 1.0)
    np.log(energies, out=energies)
    return np.negative(energies, out=energies)


def unary_from_labels(label_map: np.ndarray, label_count: int, confidence: float = 0.7) -> np.ndarray:
    """Energies of a label map: probability `confidence` for its label, the rest shared equally.

    Args:
        label_map: integers (height, width) in 0..label_count - 1.
        label_count: >= 1.
        confidence: in (0, 1).

    Returns:
        float32 (height, width, label_count).

    Raises:
        ValueError: a label is out of range, there are no labels, or `confidence` is not in (0, 1).

    Example:
        >>> np.exp(-unary_from_labels(np.array([[1]]), 3, confidence=0.8)).round(3)
        array([[[0.1, 0.8, 0.1]]], dtype=float32)
    """
    label_map = check_label_map(label_map, label_count, confidence)
    return fill_label_unary(label_map, label_count, label_energies(label_count, confidence))


def label_energies(label_count: int, confidence: float) -> tuple[float, float]:
    """Energy of the given label and of every other one."""
    return -np.log(confidence), -np.log((1 - confidence) / max(label_count - 1, 1))


def fill_label_unary(label_map: np.ndarray, channels: int, energies: tuple[float, float]) -> np.ndarray:
    """float32 (height, width, channels): `energies` of the map's label, and of every other one."""
    unary = np.full((*label_map.shape, channels), energies[1], np.float32)
    np.put_along_axis(unary, label_map[..., None].astype(np.intp), energies[0], axis=2)
    return unary


def check_label_map(label_map: np.ndarray, label_count: int, confidence: float) -> np.ndarray:
    """The label map as an array; raises a `ValueError` as `unary_from_labels` says."""
    label_map = np.asarray(label_map)
    if label_count < 1:
        raise ValueError(f"`label_count` must be 1 or more. Received: {label_count}.")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie between 0 and 1. Received: {confidence}.")
    if label_map.ndim != 2 or not label_map.size or not np.issubdtype(label_map.dtype, np.integer):
        raise ValueError(
            "A label map must be integers (height, width) with at least one pixel. "
            f"Received: {label_map.dtype} {label_map.shape}."
        )
    if label_map.min() < 0 or label_map.max() >= label_count:
        raise ValueError(
            f"Labels must lie in 0..{label_count - 1}. Received: {label_map.min()}..{label_map.max()}."
        )
    return label_map
