"""The linear probe: a logistic regression on the mean features of a frozen network, and its CAMs.

What a network that was trained on the tags must beat: it costs one pass over the images and has no learning
rate.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from wsss.data.dataset import Collection
from wsss.inference.cam_scores import (
    adapted_threshold,
    mask_from_scores,
    merge_scales,
    normalize_scores,
)
from wsss.metrics import ThresholdSweep, average_precision, confusion_matrix, counts_of, mean_iou
from wsss.pipeline.options import ADAPTATION

PENALTY = 1e-3  # of the squared weights, per image
LONGEST = 512  # pixels; larger images are shrunk


class ProbeResult(NamedTuple):
    """Metrics of a probe, all in [0, 1].

    Attributes:
        val_map: mean average precision of the tags on the split `val`.
        auto: mIoU on `train` at the background threshold of `--background_threshold auto`.
        best: mIoU at the best threshold.
    """

    val_map: float
    auto: float
    best: float


def run_probe(collection: Collection, backbone: Any) -> ProbeResult:
    """Fits the probe on the split `train`, at one scale and the network's output stride.

    Args:
        collection: with splits `train` and `val`, and with masks.
        backbone: `wsss.backbones.base.Backbone`, or any object with its Keras tensors `input` and `feature`.
    """
    import keras

    network = keras.Model(backbone.input, backbone.feature)
    train, val = (list(_features(collection, split, network)) for split in ("train", "val"))
    classes = len(collection.class_names)
    means = np.array([feature.mean(axis=(0, 1)) for _, feature in train])
    center, deviation = means.mean(axis=0), means.std(axis=0) + 1e-6
    tags = _tags([record for record, _ in train], classes)
    weights, bias = fit_logistic((means - center) / deviation, tags)
    scores = np.array([(f.mean(axis=(0, 1)) - center) / deviation @ weights + bias for _, f in val])
    precision = average_precision(scores, _tags([record for record, _ in val], classes))
    maps = [(record, _scores_of(record, feature, weights / deviation[:, None])) for record, feature in train]
    return ProbeResult(float(np.nanmean(precision)), *_masks(maps, classes + 1))


def fit_logistic(features: np.ndarray, targets: np.ndarray, penalty: float = PENALTY) -> tuple:
    """Weights `(channels, classes)` and biases `(classes,)` of a logistic regression for each class.

    Args:
        features: float (images, channels).
        targets: 0 or 1 (images, classes).
        penalty: of the squared weights, >= 0.
    """
    count, channels = features.shape
    classes = targets.shape[1]

    def loss(flat):
        parameters = flat.reshape(channels + 1, classes)
        logits = features @ parameters[:-1] + parameters[-1]
        value = (np.logaddexp(0, logits) - targets * logits).sum() / count
        error = (expit(logits) - targets) / count
        gradient = np.concatenate([features.T @ error + penalty * parameters[:-1], error.sum(axis=0)[None]])
        return value + 0.5 * penalty * np.square(parameters[:-1]).sum(), gradient.ravel()

    found = minimize(
        loss, np.zeros((channels + 1) * classes), jac=True, method="L-BFGS-B", options={"maxiter": 200}
    )
    parameters = found.x.reshape(channels + 1, classes)
    return parameters[:-1], parameters[-1]


def _features(collection, split, network):
    """Pairs of record and feature map (h, w, channels)."""
    from wsss.inference.predictor import fitting_factor, resize_image

    for record in collection.read(split):
        factor = fitting_factor(record.image.shape[:2], LONGEST)
        size = tuple(round(side * factor) for side in record.image.shape[:2])
        image = resize_image(record.image, size).astype(np.float32) / 255
        yield record, network.predict_on_batch(image[None])[0].astype(np.float32)


def _tags(records, classes):
    return np.array([np.isin(np.arange(classes), record.labels) for record in records], np.float64)


def _scores_of(record, feature, weights):
    """CAMs of the tags of an image, in [0, 1]."""
    cam = np.moveaxis(feature @ weights[:, list(record.labels)].astype(np.float32), -1, 0)
    size = record.image.shape[:2]
    return normalize_scores(merge_scales([cam], [size], size))


def _masks(maps: Sequence, classes: int) -> tuple[float, float]:
    """mIoU at the automatic threshold and at the best one."""
    strongest = [scores.max(axis=0) for _, scores in maps if len(scores)]
    threshold = sum(each.sum(dtype=np.float64) for each in strongest) / sum(each.size for each in strongest)
    sweep, confusion = ThresholdSweep(classes), np.zeros((classes, classes + 1), np.int64)
    for record, scores in maps:
        sweep.update(scores, record.labels, record.mask)
        own = adapted_threshold(scores, threshold, ADAPTATION)
        background = np.full(record.mask.shape, own, np.float32)
        confusion += confusion_matrix(
            record.mask, mask_from_scores(scores, record.labels, background), classes
        )
    return float(mean_iou(counts_of(confusion))), sweep.best()[1]
