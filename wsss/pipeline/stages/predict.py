"""CAM inference in a pipeline: our model handler for Beam's `RunInference`, and the stage around it."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference

from wsss.common.tf_import import import_tensorflow
from wsss.data.images import decode_image
from wsss.pipeline.failures import FAILURES, Failure, reason
from wsss.pipeline.stages.read import Item


class Seed(NamedTuple):
    """The CAMs of one image's classes, small enough to be shuffled between workers.

    Attributes:
        item: the image.
        keys: the classes that the image is taken to hold, 0-based, ascending.
        cams: one float32 `(len(keys), h, w)` a scale, at feature resolution.
        scaled_sizes: `(height, width)` of the image at each scale.
        scores: float32 `(classes,)`, the classifier's scores.
    """

    item: Item
    keys: tuple[int, ...]
    cams: tuple[np.ndarray, ...]
    scaled_sizes: tuple[tuple[int, int], ...]
    scores: np.ndarray


class CamModelHandler(ModelHandler):
    """Runs a trained model on batches of `Item`s.

    A batch is grouped by the shape of the decoded images, since only like shapes fit one tensor. An image
    that cannot be decoded, or fails alone, costs nobody else: its result is a `Failure`, and a batch that
    fails (out of memory, say) is repeated image by image.

    Args:
        model_path: `.keras` file, local or remote.
        model_hash: tells apart two models that lay at the same path.
        predictor_options: `(name, value)` pairs, the keyword arguments of `CamPredictor`.
        resource_hints: of the stage, such as `{"accelerator": "type:nvidia-l4;count:1"}`.
    """

    def __init__(self, model_path, model_hash, predictor_options=(), resource_hints=None):
        super().__init__()
        self._load = (model_path, model_hash, predictor_options)
        self._resource_hints = dict(resource_hints or {})

    def load_model(self):
        """The predictor; a process keeps the latest one, also from one pipeline to the next."""
        import_tensorflow()
        from wsss.inference.predictor import cached_predictor

        return cached_predictor(*self._load)

    def run_inference(self, batch: Sequence[Item], model, inference_args=None):
        """Yields one `PredictionResult` an item, whose inference is a `Prediction` or a `Failure`."""
        results, groups = {}, defaultdict(dict)
        for index, item in enumerate(batch):
            record = item.record
            try:
                image = decode_image(record.image_bytes, record.orientation)
            except ValueError as error:
                results[index] = Failure(item.shard, record.image_id, "decode", reason(error))
            else:
                groups[image.shape][index] = image
        for images in groups.values():
            results.update(_predict_group(batch, images, model))
        for index, item in enumerate(batch):
            yield PredictionResult(item, results[index])

    def get_metrics_namespace(self):
        return "wsss"

    def get_resource_hints(self):
        return self._resource_hints

    def should_skip_batching(self):
        """Elements are batches already, see `ReadBatches`."""
        return True


class PredictCAM(beam.PTransform):
    """Batches of `Item`s to `Seed`s (main tag) and `Failure`s (tag `failures`).

    Args:
        handler: a `CamModelHandler`.
        image_labels: `truth` takes the classes of the record, `predicted` those that the classifier scores at
            least `label_threshold`.
        label_threshold: in [0, 1].
    """

    def __init__(self, handler, image_labels="truth", label_threshold=0.5):
        super().__init__()
        self._handler = handler
        self._keep = beam.ParDo(_KeepPresent(image_labels == "predicted", label_threshold))

    def expand(self, batches):
        results = batches | "RunInference" >> RunInference(self._handler)
        return results | "KeepPresent" >> self._keep.with_outputs(FAILURES, main="seeds")


class _KeepPresent(beam.DoFn):
    """Keeps the CAMs of the classes that are present: what is not needed is not shuffled."""

    def __init__(self, predicted, label_threshold):
        self._predicted, self._label_threshold = predicted, label_threshold

    def process(self, result):
        item, prediction = result.example, result.inference
        if isinstance(prediction, Failure):
            yield beam.pvalue.TaggedOutput(FAILURES, prediction)
            return
        keys = item.record.labels
        if self._predicted:
            keys = tuple(int(key) for key in np.flatnonzero(prediction.scores >= self._label_threshold))
        cams = tuple(np.ascontiguousarray(cam[list(keys)]) for cam in prediction.cams)
        yield Seed(item, keys, cams, prediction.scaled_sizes, prediction.scores)


def _predict_group(batch, images, predictor):
    """Index -> `Prediction` or `Failure`, for images of one shape."""
    try:
        predictions = dict(zip(images, predictor.predict(list(images.values())), strict=True))
    except Exception as error:  # whatever the runtime raises: out of memory, an unsupported size, …
        if len(images) > 1:
            return {
                index: outcome
                for index, image in images.items()
                for outcome in _predict_group(batch, {index: image}, predictor).values()
            }
        (index,) = images
        return {index: _failure(batch[index], reason(error))}
    for index, prediction in predictions.items():
        if not all(np.isfinite(cam).all() for cam in prediction.cams):
            predictions[index] = _failure(batch[index], "The network's output is not finite.")
    return predictions


def _failure(item, why):
    return Failure(item.shard, item.record.image_id, "predict", why)
