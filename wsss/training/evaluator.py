"""Evaluation of a model on a split: precision of the classifier, mean IoU of CAMs or of a segmentation."""

import itertools

import keras
import numpy as np

from wsss.data.dataset import Collection
from wsss.inference.cam_scores import background_scores, mask_from_scores, merge_scales, normalize_scores
from wsss.inference.predictor import CamPredictor
from wsss.metrics import ThresholdSweep, average_precision, confusion_matrix, counts_of, mean_iou
from wsss.visualization import heat_map, overlay

PICTURE_SIDE = 160


class _SplitEvaluator:
    """The first images of a split, and a predictor that follows the weights of a model in training."""

    def __init__(self, collection, split, limit, cam, sides):
        self._collection, self._split, self._limit = collection, split, limit
        self._cam, self._sides = cam, sides
        self._model: keras.Model | None = None
        self._predictor: CamPredictor  # of `_model`, see `_follow`

    def _records(self, *, count=None, with_labels=False):
        """The first records of the split: `count`, by default as many as are evaluated."""
        records = (
            record for record in self._collection.read(self._split) if record.labels or not with_labels
        )
        return itertools.islice(records, count or self._limit or None)

    def _follow(self, model):
        """Builds the predictor, once for all epochs; later it folds the model's current weights anew."""
        if self._model is model:
            self._predictor.refresh()
            return
        self._model = model
        self._predictor = CamPredictor(
            model,
            scales=(1.0,),
            mirror=False,
            cam=self._cam,
            min_side=self._sides[0],
            max_side=self._sides[1],
            threads=1,
        )


class CamEvaluator(_SplitEvaluator):
    """Evaluates a model on a split of a collection, at one scale; called after each epoch.

    Args:
        collection: `Collection`.
        split: its split.
        limit: number of images that are evaluated, the first ones of the split; 0 = all.
        threshold: background score, in [0, 1], of the mean IoU and of the pictures.
        cam: which map is read out, `refined_cam` or `cam`.
        sides: shortest and longest long side in pixels; images beyond are enlarged or shrunk to it.
    """

    def __init__(
        self,
        collection: Collection,
        split: str,
        *,
        limit: int,
        threshold: float,
        cam: str,
        sides: tuple[int, int] = (0, 512),
    ):
        super().__init__(collection, split, limit, cam, sides)
        self._threshold = threshold

    def __call__(self, model) -> dict[str, float]:
        """The metrics `map`, and where masks are known `miou`, `best_miou` and `best_threshold`."""
        names = self._collection.class_names
        sweep = ThresholdSweep(len(names) + 1, sorted({*(np.arange(60) / 100), self._threshold}))
        predicted, truth = [], []
        self._follow(model)
        for record in self._records():
            scores, prediction = self._scores(record)
            predicted.append(prediction.scores)
            truth.append(np.isin(np.arange(len(names)), record.labels))
            if record.mask is not None:
                sweep.update(scores, record.labels, record.mask)
        metrics = {"map": float(np.nanmean(average_precision(np.array(predicted), np.array(truth))))}
        if self._collection.has_masks:
            best_threshold, best = sweep.best()
            at = list(sweep.thresholds).index(self._threshold)
            metrics["miou"] = float(mean_iou(sweep.counts())[at])
            metrics["best_miou"], metrics["best_threshold"] = best, best_threshold
        return metrics

    def pictures(self, model: keras.Model, count: int = 4) -> np.ndarray:
        """uint8 RGB `(count, height, width, 3)`: image, CAM of a class, mask, and truth where known."""
        rows = []
        self._follow(model)
        for record in self._records(count=count, with_labels=True):
            image = record.image
            scores, _ = self._scores(record)
            mask = mask_from_scores(scores, record.labels, background_scores(scores, self._threshold))
            tiles = [image, heat_map(image, scores[0]), overlay(image, mask)]
            if record.mask is not None:
                tiles.append(overlay(image, record.mask))
            rows.append(np.concatenate([_square(tile) for tile in tiles], axis=1))
        return np.stack(rows)

    def _scores(self, record):
        """CAM of the present classes `(classes, height, width)` in [0, 1], and the whole `Prediction`."""
        image = record.image
        (prediction,) = self._predictor.predict([image])
        cams = [cam[list(record.labels)] for cam in prediction.cams]
        merged = merge_scales(cams, prediction.scaled_sizes, image.shape[:2])
        return normalize_scores(merged), prediction


class SegmentationEvaluator(_SplitEvaluator):
    """Evaluates a segmentation network on a split with masks, at one scale; called after each epoch.

    Args:
        collection: `Collection` with masks.
        split: its split.
        limit: number of images that are evaluated, the first ones of the split; 0 = all.
        sides: shortest and longest long side in pixels; images beyond are enlarged or shrunk to it.
    """

    def __init__(self, collection: Collection, split: str, *, limit: int, sides: tuple[int, int] = (0, 512)):
        super().__init__(collection, split, limit, "probabilities", sides)

    def __call__(self, model) -> dict[str, float]:
        """The metrics `miou` and `pixel_accuracy`."""
        classes = len(self._collection.class_names) + 1
        confusion = np.zeros((classes, classes + 1), np.int64)
        self._follow(model)
        for record in self._records():
            confusion += confusion_matrix(_truth(record), self._segment(record), classes)
        correct = np.trace(confusion[:, :-1]) / max(1, confusion.sum())
        return {"miou": float(mean_iou(counts_of(confusion))), "pixel_accuracy": float(correct)}

    def pictures(self, model: keras.Model, count: int = 4) -> np.ndarray:
        """uint8 RGB `(count, height, width, 3)`: image, segmentation and truth."""
        rows = []
        self._follow(model)
        for record in self._records(count=count, with_labels=True):
            tiles = [
                record.image,
                *(overlay(record.image, m) for m in (self._segment(record), _truth(record))),
            ]
            rows.append(np.concatenate([_square(tile) for tile in tiles], axis=1))
        return np.stack(rows)

    def _segment(self, record):
        """The class of the highest probability at each pixel, uint8 (height, width)."""
        (prediction,) = self._predictor.predict([record.image])
        merged = merge_scales(prediction.cams, prediction.scaled_sizes, record.image.shape[:2])
        return merged.argmax(axis=0).astype(np.uint8)


def _truth(record):
    """The mask of an image of a collection that has masks."""
    assert record.mask is not None
    return record.mask


def _square(picture):
    """The picture shrunk into a white square, without interpolation, so that pictures can be stacked."""
    height, width = picture.shape[:2]
    scale = PICTURE_SIDE / max(height, width)
    rows = (np.arange(max(1, round(height * scale))) / scale).astype(int).clip(0, height - 1)
    columns = (np.arange(max(1, round(width * scale))) / scale).astype(int).clip(0, width - 1)
    square = np.full((PICTURE_SIDE, PICTURE_SIDE, 3), 255, np.uint8)
    square[: len(rows), : len(columns)] = picture[rows[:, None], columns]
    return square
