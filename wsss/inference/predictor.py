"""Class activation maps of photographs at several scales, each with its mirror, from a trained model.

Keras and its backend are imported when a predictor is built, not when this module is.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from wsss.common.errors import UserError
from wsss.inference.cam_scores import scaled_size, view_agreement
from wsss.inference.settings import InferenceSettings, choose_settings
from wsss.ops.interpolation import interpolation_matrix

CAMS = ("refined_cam", "cam", "probabilities")
LARGEST_MIN_SIDE = 256


class Prediction(NamedTuple):
    """CAMs and class scores of one image.

    Attributes:
        cams: one float32 array `(classes, h, w)` a scale, at feature resolution: the CAM of the image plus
            the flipped-back CAM of its mirror. Probabilities have the background before the classes.
        scaled_sizes: `(height, width)` of the image at each scale, as the network saw it.
        scores: float32 `(classes,)`, the classifier's scores, mean over all scales and mirrors.
        agreement: float32 `(classes,)` in [0, 1], how alike the CAMs of the views are, mean over the pairs of
            an image and its mirror and of the first scale and each other; None of a single view.
    """

    cams: tuple[np.ndarray, ...]
    scaled_sizes: tuple[tuple[int, int], ...]
    scores: np.ndarray
    agreement: np.ndarray | None = None


class CamPredictor:
    """Predicts class activation maps at several scales, with horizontal-flip augmentation.

    It gives the numbers of a loop over images, scales and mirrors, faster:

    - One forward pass gives the CAM and the classifier's scores.
    - Images of one shape and their mirrors share a batch, and a mirror is flipped back and added at feature
      resolution. Images are never padded to one another: that would change the values at the borders.
    - Batch normalization and padding are folded into the convolutions, once, see `optimize_for_inference`.
    - The network runs as one compiled function under the backend of Keras. On accelerators XLA compiles it
      for exact sizes while these are few; on a CPU under TensorFlow one graph serves all sizes.
    - Maps leave the device at feature resolution; `cam_scores.merge_scales` up-samples present classes only.
    - Independent batches run on several threads and fill the gaps of one another.

    What depends on the device is chosen by `wsss.inference.settings`, shown in `settings`, and overridden by
    the arguments that default to None.

    Memory is bounded by `pixels_at_once`: an image and its mirror that exceed it together go one after the
    other, and an image that exceeds it alone goes while no other does. On a CPU under TensorFlow a call whose
    activation maps would exceed `max_activation_memory` runs tiled, see `wsss.inference.tiling`.

    On a CPU the division of the work depends on the shape and number of the images alone, so that results
    repeat; on accelerators code compiled for one size may round otherwise than code for all sizes.

    Args:
        model: what `load_model` gives for a trained run: an object with the Keras models `refined_cam`, `cam`
            or `probabilities`, and `classifier`, on float32 images `(batch, height, width, 3)` in [0, 1].
        scales: factors on the size of the image, each > 0.
        mirror: whether the mirrored image is predicted too.
        cam: the map that is read out, `"refined_cam"` or `"cam"`; of a segmentation network
            `"probabilities"`, those of the background and the classes.
        max_side: images with a longer side are shrunk to it before the scales apply, 0 never shrinks;
            the published code never does, but a 12 megapixel photograph at scale 2 fits no accelerator.
        min_side: images with a shorter long side are enlarged to it before the scales apply, 0 never
            enlarges; see `smallest_side`.
        pixels_at_once, threads, jit_compile, max_compiled_sizes, max_activation_memory: see
            `InferenceSettings`; None: by device.

    Attributes:
        classes: number of classes.
        settings: the `InferenceSettings` in use.

    Raises:
        UserError: the model has no such parts, or accepts one image size only, or not three channels.
        ValueError: a scale or a setting is out of range.

    Example:
        >>> import numpy as np
        >>> from wsss import SEAM, CamPredictor
        >>> from wsss.backbones.tiny import small_backbone
        >>> from wsss.inference.cam_scores import merge_scales
        >>> model = SEAM.from_backbone(small_backbone(width=8), classes=3)  # or load_model("runs/seam")
        >>> image = np.zeros((48, 64, 3), np.uint8)
        >>> (prediction,) = CamPredictor(model, scales=(0.5, 1.0)).predict([image])
        >>> merge_scales(prediction.cams, prediction.scaled_sizes, image.shape[:2]).shape
        (3, 48, 64)
    """

    def __init__(
        self,
        model: Any,
        *,
        scales: Sequence[float] = (1.5,),
        mirror: bool = True,
        cam: str = "refined_cam",
        max_side: int = 1024,
        min_side: int = 0,
        pixels_at_once: int | None = None,
        threads: int | None = None,
        jit_compile: bool | None = None,
        max_compiled_sizes: int | None = None,
        max_activation_memory: int | None = None,
    ):
        from wsss.inference.compilation import compile_network
        from wsss.inference.fuse_batch_norm import optimize_for_inference
        from wsss.inference.tiling.tile import activation_bytes_per_pixel

        if not scales or min(scales) <= 0:
            raise ValueError(f"`scales` must be positive numbers, at least one. Received: {scales}.")
        self._network = optimize_for_inference(_joint_network(model, cam))
        self._bytes_per_pixel = activation_bytes_per_pixel(self._network)
        self.classes = int(model.classifier.output_shape[-1])
        self.settings: InferenceSettings = choose_settings(
            self._bytes_per_pixel,
            pixels_at_once=pixels_at_once,
            threads=threads,
            jit_compile=jit_compile,
            max_compiled_sizes=max_compiled_sizes,
            max_activation_memory=max_activation_memory,
        )
        self._forward = compile_network(
            self._network,
            jit_compile=self.settings.jit_compile,
            max_compiled_sizes=self.settings.max_compiled_sizes,
        )
        self._tiled: Any = None
        self._tiled_lock = threading.Lock()
        self._scales = tuple(scales)
        self._mirror = bool(mirror)
        self._min_side, self._max_side = min_side, max_side
        self._pool = ThreadPoolExecutor(self.settings.threads)

    @property
    def compilations(self) -> int:
        """How often the network was compiled for an exact image size so far."""
        return self._forward.compilations

    def refresh(self) -> None:
        """Folds the model's current weights anew; call it after the model was trained further."""
        from wsss.inference.fuse_batch_norm import refresh_folded_weights

        refresh_folded_weights(self._network)

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
        factor = fitting_factor(size, self._max_side, self._min_side)
        scaled_sizes = tuple(scaled_size(size, factor * scale) for scale in self._scales)

        calls = self._divide(images, scaled_sizes)
        alone = [call for call in calls if call.pixels > self.settings.pixels_at_once]
        outputs = dict(map(self._call, alone))
        outputs.update(self._pool.map(self._call, calls[len(alone) :]))

        scales = range(len(scaled_sizes))
        parts = [[outputs[key] for key in sorted(outputs) if key[0] == scale] for scale in scales]
        cams = [np.concatenate([output.cams for output in part]) for part in parts]
        scores = np.mean([np.concatenate([output.scores for output in part]) for part in parts], axis=0)
        pairs = (
            [np.concatenate([output.agreement for output in part]) for part in parts] if self._mirror else []
        )
        pairs += [view_agreement(cams[0], _on_grid(each, cams[0].shape[-2:])) for each in cams[1:]]
        agreement = np.mean(pairs, axis=0) if pairs else [None] * len(images)
        return [
            Prediction(
                tuple(cams[scale][index] for scale in scales), scaled_sizes, scores[index], agreement[index]
            )
            for index in range(len(images))
        ]

    def _divide(self, images, scaled_sizes):
        """The calls of the network that all scales take, the largest first."""
        calls, pixels_at_once = [], self.settings.pixels_at_once
        for scale, size in enumerate(scaled_sizes):
            views = 2 if self._mirror else 1
            of_image = views * size[0] * size[1]
            together = of_image <= pixels_at_once
            at_once = pixels_at_once // of_image if together else 1
            start = 0
            while start < len(images):
                count = self._batch_size(min(at_once, len(images) - start))
                part = images[start : start + count]
                calls.append(_Call(scale, start, size, part, views if together else 1))
                start += count
        return sorted(calls, key=lambda call: -call.pixels)

    def _batch_size(self, most):
        """`most`, or the power of two below it where each size is compiled: few sizes serve all groups."""
        return 1 << (most.bit_length() - 1) if self.settings.jit_compile else most

    def _call(self, call):
        batch = np.stack([resize_image(image, call.size) for image in call.images])
        views = [batch, batch[:, :, ::-1]] if self._mirror else [batch]
        if call.views == len(views):
            views = [np.concatenate(views)]
        of_views = [self._run(view) for view in views]
        cams = np.moveaxis(np.concatenate([cam for cam, _ in of_views]), -1, 1)
        scores = np.concatenate([score for _, score in of_views])
        agreement = None
        if self._mirror:
            (cams, mirrored), scores = np.split(cams, 2), np.mean(np.split(scores, 2), axis=0)
            mirrored = mirrored[..., ::-1]
            agreement = view_agreement(cams, mirrored)
            cams = cams + mirrored
        return (call.scale, call.start), _Output(np.ascontiguousarray(cams), scores, agreement)

    def _run(self, images):
        """`(cams, scores)` of a batch, tiled where its activation maps would exceed the bound."""
        most = self.settings.max_activation_memory
        needed = self._bytes_per_pixel * images.shape[0] * images.shape[1] * images.shape[2]
        return (self._forward if most is None or needed <= most else self._tiled_forward())(images)

    def _tiled_forward(self):
        from wsss.inference.compilation import compile_network
        from wsss.inference.tiling.tile import tile_network

        with self._tiled_lock:
            if self._tiled is None:
                tiled = tile_network(self._network)
                self._tiled = self._forward if tiled is None else compile_network(tiled)
            return self._tiled


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


class _Output(NamedTuple):
    """What a call gives for each of its images."""

    cams: np.ndarray  # (images, classes, h, w)
    scores: np.ndarray  # (images, classes)
    agreement: np.ndarray | None  # (images, classes), of an image and its mirror


def _on_grid(cams, size):
    """CAMs `(…, h, w)` interpolated to another size."""
    rows, columns = (
        interpolation_matrix(side, own).astype(np.float32)
        for side, own in zip(size, cams.shape[-2:], strict=True)
    )
    return rows @ cams @ columns.T


def _joint_network(model, cam):
    """`keras.Model`, images -> (CAM, class scores)."""
    import keras

    if cam not in CAMS:
        raise UserError(f"`cam` must be one of {', '.join(CAMS)}. Received: {cam!r}.")
    missing = [name for name in (cam, "classifier") if not hasattr(model, name)]
    if missing:
        others = [name for name in CAMS if hasattr(model, name)]
        remedy = f"Pass `--cam {others[0]}`." if others else "Train one with `python -m wsss.train`."
        raise UserError(f"The model has no `{missing[0]}`. {remedy}")
    cam_model, classifier = getattr(model, cam), model.classifier
    check_input(cam_model)
    inputs = cam_model.inputs[0]
    if classifier.inputs[0] is inputs:
        return keras.Model(inputs, [cam_model.outputs[0], classifier.outputs[0]])
    image = keras.Input((None, None, 3))
    return keras.Model(image, [cam_model(image), classifier(image)])


def check_input(model: Any) -> None:
    """Raises a `UserError` where a network does not accept RGB images of any size."""
    shape = tuple(model.input_shape)[1:]
    if shape != (None, None, 3):
        raise UserError(
            "The model must accept RGB images of any size, `Input((None, None, 3))`. "
            f"Received a model for images of shape {shape}."
        )


def fitting_factor(size: tuple[int, int], max_side: int, min_side: int = 0) -> float:
    """The factor that brings the longer side of an image between two bounds, in pixels; 0 is no bound."""
    longer = max(size)
    if max_side and longer > max_side:
        return max_side / longer
    return max(1.0, min_side / longer)


def smallest_side(image_size: int, long_side: tuple[int, ...] | None) -> int:
    """The long side to which smaller images are enlarged: the least one that a network was trained at.

    At most `LARGEST_MIN_SIDE`, so that photographs are seen as published whatever a network was trained at.

    Args:
        image_size: `--image_size` of the training, the side of its crops in pixels.
        long_side: `--long_side` of the training, the range of the long side; None: that of the crop.
    """
    return min(long_side[0] if long_side else image_size, LARGEST_MIN_SIDE)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pillow's bicubic with antialiasing, as in the published code; uint8 in and out."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
