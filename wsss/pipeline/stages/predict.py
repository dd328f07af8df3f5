"""CAM inference in a pipeline: our model handler for Beam's `RunInference`, and the stage around it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference

from wsss.common.tf_import import import_tensorflow
from wsss.data.dataset import Collection
from wsss.data.images import decode_image
from wsss.inference.predictor import CamPredictor
from wsss.pipeline.dead_letter import PASSED_ON, Failure, ShardEnd, with_retries
from wsss.pipeline.execution.measures import NAMESPACE, timed
from wsss.pipeline.stages.read import InputImage, ReadBatches


class ImageCams(NamedTuple):
    """The CAMs of one image's classes, at the resolution of the features.

    Attributes:
        input: the image.
        class_ids: the classes that the image is taken to hold, 0-based, ascending.
        cams: one float32 `(len(class_ids), h, w)` a scale, at feature resolution; of a segmentation network
            the probabilities, with the background's before those of the classes.
        scaled_sizes: `(height, width)` of the image at each scale.
        classifier_scores: float32 `(classes,)`.
        agreement: float32 `(len(class_ids),)`, how alike the CAMs of the views are, see `Prediction`;
            None for a single view.
        has_background: whether `cams` are probabilities, the background's first.
    """

    input: InputImage
    class_ids: tuple[int, ...]
    cams: tuple[np.ndarray, ...]
    scaled_sizes: tuple[tuple[int, int], ...]
    classifier_scores: np.ndarray
    agreement: np.ndarray | None = None
    has_background: bool = False


class CamModelHandler(ModelHandler):
    """Runs a trained model on batches of `InputImage`s.

    A batch is grouped by the shape of the decoded images, since only like shapes fit one tensor. An image
    that cannot be decoded, or fails alone, costs nobody else: its result is a `Failure`, and a batch that
    fails (out of memory, say) is repeated image by image, and an image as `with_retries` says.

    Args:
        model_path: `.keras` file, local or remote.
        model_hash: of the file, which distinguishes two models that lay at the same path.
        predictor_options: `(name, value)` pairs, the keyword arguments of `CamPredictor`.
        resource_hints: of the workers, such as `{"accelerator": "type:nvidia-l4;count:1"}`.
    """

    def __init__(
        self,
        model_path: str,
        model_hash: str,
        predictor_options: tuple = (),
        resource_hints: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self._load = (model_path, model_hash, predictor_options)
        self._resource_hints = dict(resource_hints or {})

    def load_model(self) -> CamPredictor:
        """The predictor; a process keeps the latest one, also from one pipeline to the next."""
        import_tensorflow(memory_growth=True)
        from wsss.inference.loading import cached_predictor

        return cached_predictor(*self._load)

    def run_inference(
        self,
        batch: Sequence[InputImage | Failure | ShardEnd],
        model: Any,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterator[PredictionResult]:
        """Yields one `PredictionResult` an image, whose inference is a `Prediction` or a `Failure`.

        A `Failure` of an earlier stage and a `ShardEnd` are their own inference.
        """
        results: dict[int, Any] = {}
        groups: defaultdict[tuple[int, ...], dict[int, np.ndarray]] = defaultdict(dict)
        for index, element in enumerate(batch):
            if isinstance(element, PASSED_ON):
                results[index] = element
                continue
            record = element.record
            try:
                with timed("decode"):
                    image = with_retries(decode_image, record.image_bytes, record.orientation)
            except (ValueError, MemoryError) as error:
                results[index] = Failure.of(element.shard, record.image_id, "decode", error)
            else:
                groups[image.shape][index] = image
        for images in groups.values():
            results.update(_predict_group(batch, images, model))
        for index, element in enumerate(batch):
            yield PredictionResult(element, results[index])

    def get_metrics_namespace(self) -> str:
        return NAMESPACE

    def get_resource_hints(self) -> dict[str, Any]:
        return self._resource_hints

    def should_skip_batching(self) -> bool:
        """Elements are batches already, see `ReadBatches`."""
        return True


class PredictCAM(beam.PTransform):
    """Batches of `InputImage`s to `ImageCams`, and `Failure`s.

    Args:
        handler: a `CamModelHandler`.
        image_labels: `truth` takes the classes of the record, `predicted` those that the classifier scores at
            least `label_threshold`.
        label_threshold: in [0, 1].
    """

    def __init__(self, handler: CamModelHandler, image_labels: str = "truth", label_threshold: float = 0.5):
        super().__init__()
        self._handler = handler
        self._keep = beam.ParDo(_KeepPresent(image_labels == "predicted", label_threshold))

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        results = batches | "RunInference" >> RunInference(self._handler)
        return results | "KeepPresent" >> self._keep


@dataclass(frozen=True)
class CamSettings:
    """How the CAMs of a collection are computed.

    Attributes:
        handler: a `CamModelHandler`.
        collection: the `Collection` that is read, or None for a folder of images.
        image_labels, label_threshold: see `PredictCAM`.
        batch_size: images in a batch, at most.
    """

    handler: CamModelHandler
    collection: Collection | None
    image_labels: str = "truth"
    label_threshold: float = 0.5
    batch_size: int = 16

    @property
    def resource_hints(self) -> Mapping[str, Any]:
        """Of the workers."""
        return self.handler.get_resource_hints()


class ComputeCAMs(beam.PTransform):
    """`InputShard`s to `ImageCams` and `Failure`s, with a `ShardEnd` after those of each shard.

    Args:
        settings: `CamSettings`.
    """

    def __init__(self, settings: CamSettings):
        super().__init__()
        self._settings = settings

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        of = self._settings
        read = shards | ReadBatches(of.collection, of.batch_size)
        return read | PredictCAM(of.handler, of.image_labels, of.label_threshold)


class _KeepPresent(beam.DoFn):
    """Keeps the CAMs of the classes that are present: the others take memory until the image is done."""

    def __init__(self, predicted, label_threshold):
        self._predicted, self._label_threshold = predicted, label_threshold

    def process(self, result):
        image, prediction = result.example, result.inference
        if isinstance(prediction, PASSED_ON):
            yield prediction
            return
        class_ids = image.record.labels
        if self._predicted:
            class_ids = tuple(
                int(index) for index in np.flatnonzero(prediction.scores >= self._label_threshold)
            )
        has_background = len(prediction.cams[0]) > len(prediction.scores)
        of_classes = [index + has_background for index in class_ids]
        rows = [0, *of_classes] if has_background else of_classes
        cams = tuple(np.ascontiguousarray(cam[rows]) for cam in prediction.cams)
        agreement = prediction.agreement
        if agreement is not None:
            agreement = agreement[of_classes]
        yield ImageCams(
            image,
            class_ids,
            cams,
            prediction.scaled_sizes,
            prediction.scores,
            agreement,
            has_background,
        )


def _predict_group(batch, images, predictor):
    """Index -> `Prediction` or `Failure`, for images of one shape."""
    inputs = list(images.values())
    try:  # several that fail are divided, and not repeated
        with timed("network"):
            several = len(inputs) > 1
            outputs = predictor.predict(inputs) if several else with_retries(predictor.predict, inputs)
        predictions = dict(zip(images, outputs, strict=True))
    except Exception as error:  # whatever the runtime raises: out of memory, an unsupported size, …
        if len(images) > 1:
            return {
                index: outcome
                for index, image in images.items()
                for outcome in _predict_group(batch, {index: image}, predictor).values()
            }
        (index,) = images
        image = batch[index]
        return {index: Failure.of(image.shard, image.record.image_id, "predict", error)}
    for index, prediction in predictions.items():
        if not all(np.isfinite(cam).all() for cam in prediction.cams):
            image, why = batch[index], "The network's output is not finite."
            predictions[index] = Failure(image.shard, image.record.image_id, "predict", why)
    return predictions
