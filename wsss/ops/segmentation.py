"""Losses of pixels: logits against label maps in which some pixels are unknown."""

from typing import Any, NamedTuple

from keras import ops

IGNORE = 255  # a pixel of no known class
_NEVER = -1e9  # the logit of a class that an image cannot hold


class PixelLoss(NamedTuple):
    """Loss of every pixel, each float32 (batch, height, width).

    Attributes:
        loss: cross-entropy, 0 where the label is unknown.
        known: 1 where the label is known, else 0.
        correct: 1 where it is known and has the highest logit, else 0.
    """

    loss: Any
    known: Any
    correct: Any


def pixel_cross_entropy(logits: Any, labels: Any, image_labels: Any = None) -> PixelLoss:
    """Cross-entropy of each pixel's logits and label.

    Args:
        logits: float (batch, height, width, 1 + classes), background in channel 0.
        labels: int (batch, height, width): 0 background, 1..K class, 255 ignore.
        image_labels: float 0/1 (batch, classes) or None; the background and these classes alone compete then.

    Returns:
        `PixelLoss`.
    """
    logits, labels = ops.cast(logits, "float32"), ops.cast(labels, "int32")
    if image_labels is not None:
        allowed = ops.pad(ops.cast(image_labels, "float32"), ((0, 0), (1, 0)), constant_values=1)
        logits = logits + (1 - allowed)[:, None, None] * _NEVER
    known = ops.cast(ops.not_equal(labels, IGNORE), "float32")
    target = ops.where(ops.equal(labels, IGNORE), 0, labels)
    chosen = ops.sum(ops.one_hot(target, logits.shape[-1], dtype="float32") * logits, axis=-1)
    loss = ops.logsumexp(logits, axis=-1) - chosen
    correct = ops.cast(ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), target), "float32")
    return PixelLoss(loss * known, known, correct * known)
