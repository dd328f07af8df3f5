"""Pretrained CNNs as dense feature extractors: any of `keras.applications`, or a `.keras` file."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from wsss.backbones.dilation import to_dense
from wsss.layers.heads import correlation_embedding

# What a network of `keras.applications` expects of its input. "raw": 0..255, normalised inside.
_PREPROCESSING = {
    "caffe": ("vgg16", "vgg19", "resnet50", "resnet101", "resnet152"),
    "torch": ("densenet121", "densenet169", "densenet201"),
    "raw": ("convnext", "efficientnet", "mobilenetv3"),
}
# Mode -> (scale, offset, whether blue comes first), for images in [0, 1].
_IMAGENET_MEAN, _IMAGENET_DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_NORMALIZATION = {
    "caffe": ([255.0] * 3, [-103.939, -116.779, -123.68], True),
    "tf": ([2.0] * 3, [-1.0] * 3, False),
    "torch": (list(1 / _IMAGENET_DEVIATION), list(-_IMAGENET_MEAN / _IMAGENET_DEVIATION), False),
    "raw": ([255.0] * 3, [0.0] * 3, False),
    "none": ([1.0] * 3, [0.0] * 3, False),
}
_GLOBAL_LAYERS = (layers.Flatten, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network that turns an image into a feature map, as Keras tensors.

    Attributes:
        input: float (batch, height, width, 3), RGB in [0, 1].
        normalized: the input as the pretrained network wants it.
        feature: the deepest features, `output_stride` pixels a cell.
        stages: stride of the original network -> its last features at that stride; the last is `feature`.
        output_stride: pixels of the image per cell of `feature`.
        preprocessing: name of the normalisation: "tf", "torch", "caffe", "raw" or "none".
        pad_value: the colour in [0, 1] that the network sees as 0, for padding images.
        stem: the features at stride 4 before the first block; None where that is not known.
    """

    input: Any
    normalized: Any
    feature: Any
    stages: dict
    output_stride: int
    preprocessing: str
    pad_value: tuple[float, float, float]
    stem: Any = None

    def correlation_feature(self, channels=(64, 128), embedding=192, standardize=False):
        """A new embedding of colour, the two stages before the last: what SEAM compares pixels by.

        Args:
            channels: channels of the two embedded stages.
            embedding: channels of the result.
            standardize: see `correlation_embedding`.

        Returns:
            Keras tensor (batch, *size of `feature`, embedding).
        """
        shallowest, *_ = stages = list(self.stages.values())
        low, high = ([shallowest] * 2 + stages[:-1])[-2:]
        return correlation_embedding(
            self.normalized,
            low,
            high,
            self.feature,
            channels=channels,
            embedding=embedding,
            standardize=standardize,
        )


def build_backbone(
    name_or_path,
    weights="imagenet",
    output_stride=16,
    *,
    preprocessing=None,
    input_shape=(None, None, 3),
    frozen_batch_norm=True,
    frozen_prefixes=(),
    frozen_fraction=0.0,
):
    """Loads a CNN, takes its classifier off, and makes it dense.

    Args:
        name_or_path: name of a network of `keras.applications` ("MobileNetV2", "mobilenet_v2"), or the path
            of a `.keras` file with a CNN on one image.
        weights: "imagenet" (downloaded by Keras), None or "none" (random), or the path of a weights file
            without the classifier. Of no effect on a `.keras` file, which has its own.
        output_stride: pixels of the image per cell of the features; strides beyond it become dilation.
        preprocessing: what the network expects: "tf" (-1..1), "torch" (ImageNet mean and deviation), "caffe"
            (BGR, mean subtracted), "raw" (0..255) or "none" (0..1). None: what `keras.applications` says for
            the network; for a file "tf", or what its own first normalising layer asks for.
        input_shape: `(height, width, 3)` of images; None is any.
        frozen_batch_norm: batch normalisation keeps its statistics, scale and offset while training.
        frozen_prefixes: layers whose names begin so are not trained.
        frozen_fraction: in [0, 1], share of the layers with weights, from the image on, that are not trained.

    Returns:
        `Backbone`.

    Raises:
        ValueError: an unknown name, a file that cannot be read, or a network that cannot be made dense.
    """
    path = Path(str(name_or_path))
    if path.suffix == ".keras":
        model = _load_model_file(path)
        default = _expected_by_first_layers(model)
    else:
        model = _application(str(name_or_path), weights)
        default = _application_preprocessing(str(name_or_path))
    mode = preprocessing or default
    if mode not in _NORMALIZATION:
        raise ValueError(f"`preprocessing` must be one of {sorted(_NORMALIZATION)}. Received: {mode!r}.")
    model = _without_head(model)
    image = layers.Input(input_shape, name="image")
    normalized = _normalize(image, mode)
    dense = to_dense(model, normalized, output_stride)
    network = keras.Model(image, dense.output)
    freeze(network, frozen_batch_norm, frozen_prefixes, frozen_fraction)
    stages = {stride: tensor for stride, tensor in dense.stages.items() if tensor is not normalized}
    return Backbone(
        input=image,
        normalized=normalized,
        feature=dense.output,
        stages=stages,
        output_stride=dense.output_stride,
        preprocessing=mode,
        pad_value=_zero_colour(model, mode),
    )


def freeze(model, batch_norm=True, prefixes=(), fraction=0.0):
    """Stops layers of `model` from learning.

    Args:
        model: `keras.Model`.
        batch_norm: freeze every batch normalisation, statistics included.
        prefixes: freeze layers whose names begin so.
        fraction: in [0, 1], freeze this share of the layers with weights, from the input on.

    Raises:
        ValueError: `fraction` outside of [0, 1], or a prefix that no layer has.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"`frozen_fraction` must lie in [0, 1]. Received: {fraction}.")
    names = [layer.name for layer in model.layers]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"No layer's name begins with {prefix!r}. Layers: {', '.join(names)}.")
    weighted = [layer for layer in model.layers if layer.weights]
    early = {id(layer) for layer in weighted[: round(fraction * len(weighted))]}
    for layer in weighted:
        frozen = batch_norm and isinstance(layer, layers.BatchNormalization)
        if frozen or id(layer) in early or any(layer.name.startswith(prefix) for prefix in prefixes):
            layer.trainable = False


def application_names():
    """Names of the networks of `keras.applications`."""
    return [name for name, _ in inspect.getmembers(keras.applications, inspect.isfunction)]


def _application(name, weights):
    functions = {_plain(known): known for known in application_names()}
    if _plain(name) not in functions:
        raise ValueError(
            "`backbone` must be a network of keras.applications or the path of a .keras file. "
            f"Received: {name!r}; known: {', '.join(application_names())}."
        )
    if weights == "none":
        weights = None
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise ValueError(
            f"`weights` must be 'imagenet', 'none' or a file. Received: {weights!r}, which is no file."
        )
    function = getattr(keras.applications, functions[_plain(name)])
    return function(include_top=False, weights=weights, input_shape=(224, 224, 3))


def _application_preprocessing(name):
    name = _plain(name)
    for mode, prefixes in _PREPROCESSING.items():
        if name in prefixes or (mode == "raw" and name.startswith(prefixes)):
            return mode
    return "tf"


def _plain(name):
    return name.replace("_", "").replace("-", "").lower()


def _load_model_file(path):
    if not path.is_file():
        raise ValueError(f"`backbone` names a .keras file that does not exist: {path}.")
    model = keras.models.load_model(path, compile=False)
    inputs = keras.tree.flatten(model.inputs)
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or len(model.outputs) != 1:
        raise ValueError(
            f"The network in {path} must have one input, images (batch, height, width, channels), and "
            f"one output. Received: {[x.shape for x in inputs]} and {[x.shape for x in model.outputs]}."
        )
    return model


def _without_head(model):
    """The network up to its last feature map: global pooling and what follows it taken off."""
    model = keras.Model(model.inputs, model.outputs)
    tensor = model.outputs[0]
    feature = tensor if len(tensor.shape) == 4 else None
    while True:  # backwards along the single chain of layers at the end
        operation = tensor._keras_history.operation
        inputs = keras.tree.flatten(operation.input) if not isinstance(operation, layers.InputLayer) else ()
        if len(inputs) != 1:
            break
        if isinstance(operation, _GLOBAL_LAYERS) and len(inputs[0].shape) == 4:
            feature = inputs[0]
        tensor = inputs[0]
    if feature is None or feature is model.inputs[0]:
        raise ValueError("The network has no feature map (batch, height, width, channels) before its output.")
    return keras.Model(model.inputs, feature)


def _normalize(image, mode):
    scale, offset, blue_first = _NORMALIZATION[mode]
    if mode == "none":
        return image
    x = ops.flip(image, axis=-1) if blue_first else image
    return layers.Rescaling(scale, offset, name="normalization_of_input")(x)


def _own_normalization(model):
    """`(slope, value at 0)` a channel of the first layers of `model`, as long as they are affine."""
    zero, one = np.zeros((1, 1, 1, 3), "float32"), np.ones((1, 1, 1, 3), "float32")
    found = False
    for layer in model.layers:
        if isinstance(layer, (layers.Rescaling, layers.Normalization)):
            zero, one, found = *(np.asarray(keras.ops.convert_to_numpy(layer(x))) for x in (zero, one)), True
        elif not isinstance(layer, layers.InputLayer):
            break
    return (np.ravel(one - zero), np.ravel(zero)) if found else None


def _expected_by_first_layers(model):
    own = _own_normalization(model)
    if own is None:
        return "tf"
    slope, _ = own
    return "raw" if np.abs(slope).max() < 0.1 else "none"


def _zero_colour(model, mode):
    """The colour in [0, 1] that is 0 after all normalisation."""
    scale, offset, blue_first = _NORMALIZATION[mode]
    scale, offset = np.array(scale), np.array(offset)
    own = _own_normalization(model)
    if own is not None:
        slope, constant = own
        scale, offset = slope * scale, slope * offset + constant
    colour = np.clip(-offset / scale, 0, 1)
    return tuple(float(value) for value in (colour[::-1] if blue_first else colour))
