"""Class activation maps: normalization, background and the strongest class.

Maps are `(batch, height, width, classes)`. Unless a function says otherwise the classes are the
foreground classes only; where there is a background channel, it is channel 0.
"""

from typing import Any

from keras import ops

SPATIAL = (1, 2)


def max_normalize(cam: Any, epsilon: float = 1e-5) -> Any:
    """Positive part of each map, scaled to [0, 1) by its smallest and largest value.

    `relu(r - min - epsilon) / (max - min + epsilon)` with `r = relu(cam)`. The gradient flows through
    the extremes too. Source: Wang et al., CVPR 2020 (SEAM), released code.

    Args:
        cam: float (batch, height, width, classes).
        epsilon: > 0; values this close to the minimum become 0.

    Returns:
        float, shaped like `cam`, in [0, 1).
    """
    positive, low, high = _positive_range(cam)
    return ops.relu(positive - low - epsilon) / (high - low + epsilon)


def min_max_normalize(cam: Any, epsilon: float = 1e-5) -> Any:
    """Min-max normalization of pixel-to-prototype contrast, and of inference before values below 0 are cut.

    Differs from `max_normalize` where the map is at its minimum: such pixels come out slightly
    negative, and a map without a positive value is exactly -1 everywhere, which keeps it below
    every background score.

    Args:
        cam: float (batch, height, width, classes).
        epsilon: > 0.

    Returns:
        float, shaped like `cam`, in [-1, 1).
    """
    positive, low, high = _positive_range(cam)
    kept = ops.where(positive < low + epsilon, 0.0, positive)
    return (kept - low - epsilon) / (high - low + epsilon)


def max_onehot(cam: Any) -> Any:
    """The maps with every value but the largest of each pixel set to 0; exact ties all stay.

    Args:
        cam: float (batch, height, width, classes).

    Returns:
        float, shaped like `cam`.
    """
    return ops.where(cam == ops.max(cam, axis=-1, keepdims=True), cam, 0.0)


def background_score(cam: Any, exponent: float = 1.0) -> Any:
    """Background score of each pixel, `(1 - max_c cam_c) ** exponent`.

    Source: Ahn & Kwak, CVPR 2018, section 3.1.

    Args:
        cam: float (batch, height, width, classes), each in [0, 1].
        exponent: > 0; the larger, the less background.

    Returns:
        float (batch, height, width, 1), in [0, 1].

    Raises:
        ValueError: `exponent` is not positive.
    """
    if exponent <= 0:
        raise ValueError(f"`exponent` must be positive. Received: {exponent}.")
    score = 1 - ops.max(cam, axis=-1, keepdims=True)
    return score if exponent == 1 else score**exponent


def add_background(cam: Any) -> Any:
    """The maps with `background_score(cam)` put before them as channel 0.

    Args:
        cam: float (batch, height, width, classes), each in [0, 1].

    Returns:
        float (batch, height, width, 1 + classes).
    """
    return ops.concatenate([background_score(cam), cam], axis=-1)


def mask_classes(cam: Any, image_labels: Any) -> Any:
    """The maps of classes that the image does not have, set to 0.

    Args:
        cam: float (batch, height, width, classes).
        image_labels: float 0/1 (batch, classes).

    Returns:
        float, shaped like `cam`.
    """
    return cam * ops.cast(image_labels, cam.dtype)[:, None, None, :]


def _positive_range(cam):
    positive = ops.relu(cam)
    low = ops.min(positive, axis=SPATIAL, keepdims=True)
    high = ops.max(positive, axis=SPATIAL, keepdims=True)
    return positive, low, high
