"""Batch normalization and zero padding folded into the convolutions beside them, once per model."""

import contextlib
import math
from typing import Any

import keras
from keras import layers, ops

from wsss.inference.graph import Step, needed, readers_of, rebuild, steps_of
from wsss.inference.tiling.channels import concat_channels, is_split, split_output_channels
from wsss.inference.tiling.receptive_field import ZeroPadding, convolution_receptive_fields

# Weights of the largest kernel that is folded. A fold is a copy of the kernel beside the model's own, and it
# saves a pass over the map, which is next to nothing beside a convolution with a larger kernel.
LARGEST_FOLDED = 1 << 19


class FusedConvolution(layers.Layer):
    """Zero padding, a convolution and a batch normalization as one convolution with a bias.

    With the moving mean `m` and variance `v`, `(w * x + b - m) / sqrt(v + epsilon) * gamma + beta` is a
    convolution with the kernel `s w` and the bias `(b - m) s + beta`, `s = gamma / sqrt(v + epsilon)`. They
    are computed when the layer is built, and again by `refresh`. Without a batch normalization the weights
    are those of `convolution` themselves.

    Args:
        convolution: a built `Conv2D` or `DepthwiseConv2D` without activation.
        normalization: the built `BatchNormalization` of its channels, or None.
        zero_padding: `((top, bottom), (left, right))`, zeros around the map in place of the padding of
            `convolution`; None: that one.
    """

    def __init__(
        self,
        convolution: keras.layers.Layer,
        normalization: keras.layers.Layer | None = None,
        zero_padding: ZeroPadding | None = None,
        **kwargs,
    ):
        super().__init__(dtype=convolution.dtype_policy, trainable=False, **kwargs)
        self.sources = lambda: (convolution, normalization)  # Keras would track the layers as its own
        self.zero_padding, self.padding = zero_padding, convolution.padding
        self.kernel_size = tuple(convolution.kernel_size)
        self.strides, self.dilation_rate = tuple(convolution.strides), tuple(convolution.dilation_rate)
        self.depthwise = isinstance(convolution, layers.DepthwiseConv2D)
        if normalization is None:
            self.kernel, self.bias = convolution.kernel, convolution.bias
        else:
            channels = (normalization.moving_mean.shape[0],)
            self.kernel = self.add_weight(shape=convolution.kernel.shape, trainable=False, name="kernel")
            self.bias = self.add_weight(shape=channels, trainable=False, name="bias")
            self.refresh()
        self.built = True

    def refresh(self) -> None:
        """Folds the current weights of the convolution and the batch normalization."""
        convolution, norm = self.sources()
        if norm is None:
            return
        scale = 1 / ops.sqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale = scale * norm.gamma
        offset = -norm.moving_mean * scale
        if norm.center:
            offset = offset + norm.beta
        if convolution.bias is not None:
            offset = offset + convolution.bias * scale
        kernel = convolution.kernel
        self.kernel.assign(kernel * (ops.reshape(scale, kernel.shape[2:]) if self.depthwise else scale))
        self.bias.assign(offset)

    def call(self, x):
        return convolve(self, x, self.zero_padding)

    def compute_output_shape(self, input_shape):
        convolution, _ = self.sources()
        if self.zero_padding is None:
            return convolution.compute_output_shape(input_shape)
        fields = convolution_receptive_fields(convolution, self.zero_padding)
        assert fields is not None  # of an explicit padding
        size = [side and field.output_size(side) for side, field in zip(input_shape[1:3], fields)]
        return (input_shape[0], *size, convolution.compute_output_shape(input_shape)[-1])


def convolve(
    layer: keras.layers.Layer, x: Any, zero_padding: ZeroPadding | None = None, *, split_all: bool = True
) -> Any:
    """What a plain convolution layer computes, with explicit zero padding and without its activation.

    Args:
        layer: `FusedConvolution`, `Conv2D` or `DepthwiseConv2D`, see `is_plain_convolution`.
        x: (batch, height, width, channels).
        zero_padding: `((top, bottom), (left, right))`, or None for the layer's own padding.
        split_all: whether kernels beyond 1 x 1 are split too, see `split_output_channels`; a few rows do not
            pay for it.

    Returns:
        (batch, height, width, channels).
    """
    x = ops.cast(x, layer.compute_dtype)
    depthwise = isinstance(layer, layers.DepthwiseConv2D) or getattr(layer, "depthwise", False)
    may_split = not depthwise and (split_all or tuple(layer.kernel_size) == (1, 1))
    split = may_split and is_split(layer.kernel.shape[-1])
    with _after(x) if split else contextlib.nullcontext():
        kernel = ops.cast(layer.kernel, x.dtype)
        kernels = split_output_channels(kernel) if split else [kernel]
    x = concat_channels([_convolution(layer, x, kernel, zero_padding, depthwise) for kernel in kernels])
    if layer.bias is None:
        return x
    return ops.add(x, ops.reshape(ops.cast(layer.bias, x.dtype), (1, 1, 1, -1)))


def _convolution(layer, x, kernel, zero_padding, depthwise):
    strides, dilation = tuple(layer.strides), tuple(layer.dilation_rate)
    padding = layer.padding if zero_padding is None else "valid"
    if keras.backend.backend() == "tensorflow" and not depthwise:
        import tensorflow as tf

        # Keras would pad the map in a copy of its own, and cut it into coarser ones to dilate it.
        around = padding.upper() if zero_padding is None else [(0, 0), *zero_padding, (0, 0)]
        return tf.nn.conv2d(x, kernel, strides, around, dilations=dilation)
    if zero_padding is not None:
        x = ops.pad(x, ((0, 0), *zero_padding, (0, 0)))
    conv = ops.depthwise_conv if depthwise else ops.conv
    return conv(x, kernel, strides, padding, "channels_last", dilation)


def optimize_for_inference(model: keras.Model) -> keras.Model:
    """The network with batch normalization and zero padding folded into its convolutions.

    Args:
        model: functional `keras.Model`.

    Returns:
        `keras.Model` for inference alone, equal to `model` up to rounding. It shares the weights of all other
        layers with `model`; after those of `model` have changed, call `refresh_folded_weights` on it.
    """
    steps, copy = steps_of(model)
    steps = needed(_fuse(steps, copy.outputs), copy.outputs)
    return rebuild(steps, copy.inputs, copy.outputs)


def refresh_folded_weights(network: keras.Model) -> None:
    """Folds the current weights of the model from which `optimize_for_inference` made `network`."""
    for layer in network.layers:
        if isinstance(layer, FusedConvolution):
            layer.refresh()


def is_plain_convolution(layer: keras.layers.Layer) -> bool:
    """Whether the layer is a convolution of channels last, without activation or groups.

    Subclasses that are neither Keras's nor ours may compute anything, and are left alone.
    """
    return (
        isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D))
        and type(layer).__module__.split(".")[0] in ("keras", "wsss")
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
        and getattr(layer, "groups", 1) == 1
    )


def _fuse(steps, outputs):
    """The steps with `FusedConvolution` where there can be one; what it replaces is left in, unread.

    A batch normalization is folded into the convolution whose output it alone reads, and zero padding into
    the convolution that reads it.
    """
    readers = readers_of(steps, outputs)
    replaced: dict[int, Step] = {}
    for step in steps:
        before = replaced.get(id(step.inputs[0])) if len(step.inputs) == 1 else None
        alone = len(readers[id(step.inputs[0])]) == 1
        fused = _fused(before.layer, step.layer, alone) if before else None
        if before and fused:
            step = Step(fused, before.args, {}, step.output)
        elif _is_faster_fused(step.layer):
            step = step._replace(layer=FusedConvolution(step.layer, name=f"{step.layer.name}_fused"))
        replaced[id(step.output)] = step
    return list(replaced.values())


def _fused(before, layer, alone):
    """The convolution that does what `before` and `layer` do, or None.

    Args:
        before: the layer whose output is read.
        layer: the layer that reads it.
        alone: whether no other layer reads it.
    """
    if isinstance(before, layers.ZeroPadding2D) and is_plain_convolution(layer) and layer.padding == "valid":
        return FusedConvolution(layer, None, before.padding, name=f"{layer.name}_padded")
    if not isinstance(layer, layers.BatchNormalization) or layer.axis not in (-1, 3) or not alone:
        return None
    padding, normalized = None, None
    if isinstance(before, FusedConvolution):
        padding, (before, normalized) = before.zero_padding, before.sources()
    if normalized or not is_plain_convolution(before) or math.prod(before.kernel.shape) > LARGEST_FOLDED:
        return None
    return FusedConvolution(before, layer, padding, name=f"{before.name}_folded")


def _is_faster_fused(layer):
    """Whether a plain convolution alone is faster as `FusedConvolution`: dilated, or split on this CPU."""
    if keras.backend.backend() != "tensorflow" or not is_plain_convolution(layer):
        return False
    dilated = layer.strides == (1, 1) != tuple(layer.dilation_rate)
    return not isinstance(layer, layers.DepthwiseConv2D) and (dilated or is_split(layer.kernel.shape[-1]))


def _after(x):
    """What is computed inside waits for `x`; or TensorFlow splits, and holds, all kernels at once."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.control_dependencies([x])
