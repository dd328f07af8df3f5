"""Pretrained CNNs as dense feature extractors: any of `keras.applications`, or a `.keras` file."""

import difflib
import functools
import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import keras
import numpy as np
from keras import layers, ops

from wsss.backbones.base import IMAGENET_DEVIATION, IMAGENET_MEAN, Backbone, freeze
from wsss.backbones.dilation import to_dense
from wsss.common import compat

# Input range that a network of `keras.applications` expects. "raw": 0..255, normalized inside.
_PREPROCESSING = {
    "caffe": ("vgg16", "vgg19", "resnet50", "resnet101", "resnet152"),
    "torch": ("densenet121", "densenet169", "densenet201"),
    "raw": ("convnext", "efficientnet", "mobilenetv3"),
}
# Mode -> (scale, offset, whether blue comes first), for images in [0, 1].
_MEAN, _DEVIATION = np.array(IMAGENET_MEAN), np.array(IMAGENET_DEVIATION)
_NORMALIZATION = {
    "caffe": ([255.0] * 3, [-103.939, -116.779, -123.68], True),
    "tf": ([2.0] * 3, [-1.0] * 3, False),
    "torch": (list(1 / _DEVIATION), list(-_MEAN / _DEVIATION), False),
    "raw": ([255.0] * 3, [0.0] * 3, False),
    "none": ([1.0] * 3, [0.0] * 3, False),
}
_Loaded = TypeVar("_Loaded")
_GLOBAL_LAYERS = (layers.Flatten, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)


def build_backbone(
    name_or_path: str | Path,
    weights: str | None = "imagenet",
    output_stride: int = 16,
    *,
    preprocessing: str | None = None,
    input_shape: tuple = (None, None, 3),
    frozen_batch_norm: bool = True,
    frozen_prefixes: Sequence[str] = (),
    frozen_fraction: float = 0.0,
) -> Backbone:
    """Loads a CNN, takes its classifier off, and makes it dense.

    Args:
        name_or_path: name of a network of `keras.applications` ("MobileNetV2", "mobilenet_v2"), or the path
            of a `.keras` file with a CNN on one image.
        weights: "imagenet" (downloaded by Keras), None or "none" (random), or the path of a weights file
            without the classifier. Of no effect on a `.keras` file, which has its own.
        output_stride: pixels of the image per cell of the features; strides beyond it become dilation.
        preprocessing: what the network expects: "tf" (-1..1), "torch" (ImageNet mean and deviation), "caffe"
            (BGR, mean subtracted), "raw" (0..255) or "none" (0..1). None: what `keras.applications` says for
            the network; for a file "tf", or what its own first normalizing layer asks for.
        input_shape: `(height, width, 3)` of images; None is any.
        frozen_batch_norm: batch normalization keeps its statistics, scale and offset while training.
        frozen_prefixes: layers whose names begin so are not trained.
        frozen_fraction: in [0, 1], fraction of the layers with weights, from the input on, not trained.

    Returns:
        `Backbone`.

    Raises:
        ValueError: an unknown name, a file that cannot be read, or a network that cannot be made dense.

    Example:
        >>> backbone = build_backbone("MobileNetV2", weights=None, output_stride=8)  # "imagenet" downloads
        >>> backbone.feature.shape, backbone.output_stride
        ((None, None, None, 1280), 8)
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
        pad_value=_zero_color(model, mode),
    )


def application_names() -> list[str]:
    """Names of the networks of `keras.applications`."""
    return [name for name, _ in inspect.getmembers(keras.applications, inspect.isfunction)]


def _application(name, weights):
    functions = {_plain(known): known for known in application_names()}
    if _plain(name) not in functions:
        raise ValueError(
            f"`backbone` must be a network of keras.applications or the path of a .keras file. {_hint(name)}"
        )
    if weights == "none":
        weights = None
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise ValueError(
            f"`weights` must be 'imagenet', 'none' or a file. Received: {weights!r}, which is no file."
        )
    function = getattr(keras.applications, functions[_plain(name)])
    build = functools.partial(function, include_top=False, weights=weights, input_shape=(224, 224, 3))
    return build() if weights in (None, "imagenet") else load_weights_file(build, weights, name)


def _hint(name):
    near = difflib.get_close_matches(_plain(name), map(_plain, application_names()), n=3)
    known = [known for known in application_names() if _plain(known) in near] or application_names()
    return (
        f"Received: {name!r}; {'did you mean' if near else 'known:'} {', '.join(known)}{'?' if near else '.'}"
    )


def load_weights_file(load: Callable[[], _Loaded], path: str | Path, network: str) -> _Loaded:
    """What `load` returns; a file of other weights is one line in place of Keras's list of all layers.

    Args:
        load: reads weights from a file.
        path: of the file.
        network: whose weights it should hold.

    Raises:
        ValueError: it holds no such weights.
    """
    try:
        with warnings.catch_warnings():  # one for each layer that the file lacks
            warnings.filterwarnings("ignore", "Skipping nested container")
            return load()
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{path} holds no weights of {network} without its classifier (`include_top=False`), in a "
            f".weights.h5 or .h5 file. Keras says: {_first_sentence(error)}"
        ) from error


def _first_sentence(error):
    return f"{' '.join(str(error).split()).split('. ')[0].rstrip('.')[:200]}."


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
    try:
        model = keras.models.load_model(path, compile=False)
    except (TypeError, KeyError, AttributeError, RuntimeError) as error:  # a class that is not registered
        missing = re.search(r"Could not locate (?:class|function) '([^']+)'", str(error))
        reason = (
            f"it has a layer of your own, `{missing[1]}`. From Python, import its module (decorated with "
            "`@keras.saving.register_keras_serializable()`) and call `wsss.train_model`"
            if missing
            else str(error).strip().split("\n")[0]
        )
        raise ValueError(f"{path} cannot be loaded: {reason}.") from error
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
        operation = compat.producer(tensor)
        inputs = [] if isinstance(operation, layers.InputLayer) else keras.tree.flatten(operation.input)
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
            zero, one = (np.asarray(keras.ops.convert_to_numpy(layer(x))) for x in (zero, one))
            found = True
        elif not isinstance(layer, layers.InputLayer):
            break
    return (np.ravel(one - zero), np.ravel(zero)) if found else None


def _expected_by_first_layers(model):
    own = _own_normalization(model)
    if own is None:
        return "tf"
    slope, _ = own
    return "raw" if np.abs(slope).max() < 0.1 else "none"


def _zero_color(model, mode):
    """The color in [0, 1] that is 0 after all normalization."""
    of_mode, offset_of_mode, blue_first = _NORMALIZATION[mode]
    scale, offset = np.array(of_mode), np.array(offset_of_mode)
    own = _own_normalization(model)
    if own is not None:
        slope, constant = own
        scale, offset = slope * scale, slope * offset + constant
    color = np.clip(-offset / scale, 0, 1)
    return tuple(float(value) for value in (color[::-1] if blue_first else color))
