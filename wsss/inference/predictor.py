"""Class activation maps of photographs at several scales, each with its mirror, around a trained model.

TensorFlow and Keras are imported when a predictor is made, not when this module is.
"""

import contextlib
import functools
import os
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from wsss.common import io
from wsss.common.errors import UserError
from wsss.inference.cam_scores import scaled_size
from wsss.inference.malloc_tuning import freed_memory_returned

CAMS = ("refined_cam", "cam")


class Prediction(NamedTuple):
    """What the network says about one image.

    Attributes:
        cams: one float32 array `(classes, h, w)` a scale, at feature resolution: the CAM of the image plus
            the flipped-back CAM of its mirror.
        scaled_sizes: `(height, width)` of the image at each scale, as the network saw it.
        scores: float32 `(classes,)`, the classifier's scores, mean over all scales and mirrors.
    """

    cams: tuple[np.ndarray, ...]
    scaled_sizes: tuple[tuple[int, int], ...]
    scores: np.ndarray


class CamPredictor:
    """Predicts multi-scale mirrored CAMs; `predict` is all that there is to call.

    What makes it faster than a loop over images, scales and mirrors, with the same numbers:

    - One forward pass gives the CAM and the classifier's scores.
    - Images of one shape and their mirrors share a batch, and a mirror is flipped back and added on the
      device. Shapes are never padded to one another: that would change the values at the borders.
    - The compiled function accepts any batch and image size: a collection of mixed sizes is traced once.
    - Maps leave the device at feature resolution; `cam_scores.merge_scales` up-samples present classes only.
    - Batch normalisation and padding are folded into the convolutions, and no wide map is held whole, see
      `wsss.inference.tiling.optimize`.
    - Independent batches run on several threads and fill the gaps of one another.

    Memory is held down by `pixels_at_once`: an image and its mirror that exceed it together go one after the
    other, and an image that exceeds it alone goes while no other does.

    How the work is divided depends on the shape and number of the images and on nothing else, so that results
    repeat.

    Args:
        model: what `keras.models.load_model` gives for a trained run: an object with the Keras models
            `refined_cam`, `cam` and `classifier` on float32 images `(batch, height, width, 3)` in [0, 1].
        scales: factors on the size of the image, each > 0.
        mirror: whether the mirrored image is predicted too.
        cam: `"refined_cam"` or `"cam"`, the map that is read out.
        max_side: images with a longer side are shrunk to it before the scales apply, 0 never shrinks;
            the published code never does, but a 12 megapixel photograph at scale 2 fits no accelerator.
        pixels_at_once: most pixels in one call of the network, mirrors included; one view of one image may
            exceed it.
        threads: batches that are in work at once.

    Raises:
        UserError: the model has no such parts, or accepts one image size only, or not three channels.
    """

    def __init__(
        self,
        model,
        *,
        scales: Sequence[float] = (1.5,),
        mirror=True,
        cam="refined_cam",
        max_side=1024,
        pixels_at_once=3 << 18,
        threads=2,
    ):
        self._forward, self.classes = _compile(model, cam)
        self._scales = tuple(scales)
        self._mirror = bool(mirror)
        self._max_side = max_side
        self._pixels_at_once = pixels_at_once
        self._pool = ThreadPoolExecutor(threads)

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Predicts CAMs and scores of images that all have one shape.

        Args:
            images: uint8 arrays `(height, width, 3)`.

        Returns:
            One `Prediction` an image, in order.

        Raises:
            ValueError: the images differ in shape.
        """
        if not images:
            return []
        if len({image.shape for image in images}) > 1:
            raise ValueError("`images` must have one shape; group them first.")
        size = images[0].shape[:2]
        shrink = _shrinkage(size, self._max_side)
        scaled_sizes = tuple(scaled_size(size, shrink * scale) for scale in self._scales)

        calls = self._divide(images, scaled_sizes)
        alone = [call for call in calls if call.pixels > self._pixels_at_once]
        outputs = dict(map(self._call, alone))
        outputs.update(self._pool.map(self._call, calls[len(alone) :]))

        scales = range(len(scaled_sizes))
        parts = [[outputs[key] for key in sorted(outputs) if key[0] == scale] for scale in scales]
        cams = [np.concatenate([cam for cam, _ in part]) for part in parts]
        scores = np.mean([np.concatenate([score for _, score in part]) for part in parts], axis=0)
        return [
            Prediction(tuple(cams[scale][index] for scale in scales), scaled_sizes, scores[index])
            for index in range(len(images))
        ]

    def _divide(self, images, scaled_sizes):
        """The calls of the network that all scales take, the largest first."""
        calls = []
        for scale, size in enumerate(scaled_sizes):
            views = 2 if self._mirror else 1
            of_image = views * size[0] * size[1]
            together = of_image <= self._pixels_at_once
            at_once = self._pixels_at_once // of_image if together else 1
            for start in range(0, len(images), at_once):
                part = images[start : start + at_once]
                calls.append(_Call(scale, start, size, part, views if together else 1))
        return sorted(calls, key=lambda call: -call.pixels)

    def _call(self, call):
        batch = np.stack([_resize(image, call.size) for image in call.images])
        views = [batch, batch[:, :, ::-1]] if self._mirror else [batch]
        if call.views == len(views):
            views = [np.concatenate(views)]
        cams, scores = zip(*([x.numpy() for x in self._forward(view)] for view in views))
        cams, scores = (np.concatenate(x) for x in (cams, scores))
        if self._mirror:
            (cams, mirrored), scores = np.split(cams, 2), np.mean(np.split(scores, 2), axis=0)
            cams = cams + mirrored[:, :, ::-1]
        return (call.scale, call.start), (np.ascontiguousarray(np.moveaxis(cams, -1, 1)), scores)


class _Call(NamedTuple):
    """Images that go through the network at one scale, and how many views of each go together."""

    scale: int
    start: int  # index of the first image
    size: tuple[int, int]
    images: Sequence[np.ndarray]
    views: int

    @property
    def pixels(self):
        return self.views * len(self.images) * self.size[0] * self.size[1]


class RelationPredictor:
    """Predicts of a photograph which neighbouring positions are one thing.

    Args:
        model: an `AffinityNet` or an `IRNet`.
        max_side: images with a longer side are shrunk to it, 0 never shrinks.

    Attributes:
        kind: "affinity" or "edge", what `predict` gives.
        radius: of the affinities, positions; None of edges.

    Raises:
        UserError: the model gives neither, or accepts one image size only.
    """

    def __init__(self, model, max_side=1024):
        from wsss.models import AffinityNet, IRNet

        if not isinstance(model, (AffinityNet, IRNet)):
            raise UserError(
                "The model gives neither affinities nor edges: name one that was trained with "
                "`--model affinity` or `--model irn`."
            )
        self.kind = "affinity" if isinstance(model, AffinityNet) else "edge"
        self.radius = model.radius if self.kind == "affinity" else None
        self._forward = _compile_relation(getattr(model, self.kind))
        self._max_side = max_side

    def predict(self, image):
        """Float32 `(h, w, channels)`: affinities of the neighbours, 0 beyond the border; or the one edge.

        Args:
            image: uint8 `(height, width, 3)`.
        """
        size = image.shape[:2]
        image = _resize(image, scaled_size(size, _shrinkage(size, self._max_side)))
        return self._forward(image[None]).numpy()[0]


def load_predictor(path, **options):
    """A `CamPredictor` for a `.keras` file, local or remote; `options` are its keyword arguments.

    Raises:
        UserError: the file is missing, or is no model of this package.
    """
    return CamPredictor(load_model(path), **options)


def load_model(path):
    """The model of a `.keras` file, local or remote, in little more memory than its weights take.

    Raises:
        UserError: the file is missing, or is no model of this package.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    import wsss.models  # noqa: F401  registers the classes that a file names

    with _unpacked(path) as folder, freed_memory_returned():
        try:
            return keras.models.load_model(folder, compile=False)
        except (ValueError, TypeError, OSError, KeyError) as error:
            raise UserError(f"`{path}` is no trained model: {str(error).splitlines()[0][:200]}") from error


@functools.lru_cache(maxsize=1)
def cached_predictor(path, content_hash, options):
    """`load_predictor`, kept for the process: one model in memory, however many pipelines run in turn.

    Args:
        path: of the `.keras` file.
        content_hash: of the file, so that a model trained anew at the same path is loaded anew.
        options: `(name, value)` pairs.
    """
    return load_predictor(path, **dict(options))


@functools.lru_cache(maxsize=1)
def cached_relation_predictor(path, content_hash, max_side):
    """A `RelationPredictor`, kept for the process; see `cached_predictor`."""
    return RelationPredictor(load_model(path), max_side)


def _compile(model, cam):
    """The function uint8 images -> (CAM, scores), traced once for all sizes, and the class count."""
    import keras
    import tensorflow as tf

    from wsss.inference.tiling.optimize import lean_network

    if cam not in CAMS:
        raise UserError(f"`cam` must be one of {', '.join(CAMS)}. Received: {cam!r}.")
    missing = [name for name in (cam, "classifier") if not hasattr(model, name)]
    if missing:
        raise UserError(f"The model has no `{missing[0]}`: it is no SEAM or Pixel2Prototype model.")
    cam_model, classifier = getattr(model, cam), model.classifier
    _check_input(cam_model)
    inputs = cam_model.inputs[0]
    if classifier.inputs[0] is inputs:
        network = lean_network(keras.Model(inputs, [cam_model.outputs[0], classifier.outputs[0]]))
    else:

        def network(images, training):
            return cam_model(images, training=training), classifier(images, training=training)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)], autograph=False)
    def forward(images):
        cams, scores = network(tf.cast(images, tf.float32) / 255, training=False)
        return tf.cast(cams, tf.float32), tf.cast(scores, tf.float32)

    return forward, int(classifier.output_shape[-1])


def _compile_relation(relation):
    """The traced function, uint8 images -> affinities or edges."""
    import tensorflow as tf

    _check_input(relation)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)], autograph=False)
    def forward(images):
        return tf.cast(relation(tf.cast(images, tf.float32) / 255, training=False), tf.float32)

    return forward


def _check_input(model):
    shape = tuple(model.input_shape)[1:]
    if shape != (None, None, 3):
        raise UserError(
            "The model must accept RGB images of any size, `Input((None, None, 3))`. "
            f"Received a model for images of shape {shape}."
        )


def _shrinkage(size, max_side):
    return min(1.0, max_side / max(size)) if max_side else 1.0


def _resize(image, size):
    """Pillow's bicubic with antialiasing, as in the published code; uint8 in and out."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))


@contextlib.contextmanager
def _unpacked(path):
    """A folder with what is in a `.keras` file: there Keras reads one weight at a time, not all at once."""
    if not io.exists(path):
        raise UserError(f"There is no model at `{path}`.")
    with tempfile.TemporaryDirectory(prefix="wsss-model-") as folder:
        local = os.fspath(path)
        if io.is_remote(path):
            local = os.path.join(folder, "model.keras")
            io.copy(path, local)
        unpacked = os.path.join(folder, "model")
        try:
            with zipfile.ZipFile(local) as archive:
                archive.extractall(unpacked)
        except zipfile.BadZipFile as error:
            message = f"`{path}` is not a whole `.keras` file: copy it anew, or train again."
            raise UserError(message) from error
        yield unpacked
