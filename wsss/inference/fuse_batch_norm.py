"""Batch normalisation and zero padding as part of the convolutions beside them."""

import contextlib
import math

import keras
from keras import layers, ops

from wsss.inference.graph import Step, readers_of
from wsss.inference.tiling.channels import in_parts, merge_parts
from wsss.inference.tiling.receptive_field import windows_of_convolution

LARGEST_FOLDED = 1 << 18  # weights; folding more of them takes longer than the maps that it saves


class FoldedConvolution(layers.Layer):
    """Zero padding, a convolution, and a batch normalisation, as one convolution with a bias.

    With the moving mean `m` and variance `v`, `(w * x + b - m) / sqrt(v + epsilon) * gamma + beta` is a
    convolution with the kernel `s w` and the bias `(b - m) s + beta`, `s = gamma / sqrt(v + epsilon)`. The
    weights stay where they are and are folded anew in each call: they cost no memory for long and follow the
    original layers while those are trained.

    Args:
        convolution: a built `Conv2D` or `DepthwiseConv2D` without activation.
        normalization: the built `BatchNormalization` of its channels, or None.
        zero_padding: `((top, bottom), (left, right))`, zeros around the map in place of what the convolution
            itself would pad with. None: that.
    """

    def __init__(self, convolution, normalization=None, zero_padding=None, **kwargs):
        super().__init__(dtype=convolution.dtype_policy, trainable=False, **kwargs)
        self.convolution, self.normalization, self.zero_padding = convolution, normalization, zero_padding
        self.depthwise = isinstance(convolution, layers.DepthwiseConv2D)
        self.built = True

    def call(self, x):
        with _after(x):
            kernel, bias = self._kernel_and_bias()
            # A few rows do not pay for parting a larger kernel.
            small = tuple(kernel.shape[:2]) == (1, 1) and not self.depthwise
            kernels = in_parts(kernel) if small else [kernel]
        x = merge_parts([self._convolve(x, ops.cast(kernel, x.dtype)) for kernel in kernels])
        return x if bias is None else ops.add(x, ops.reshape(ops.cast(bias, x.dtype), (1, 1, 1, -1)))

    def _kernel_and_bias(self):
        kernel, bias, norm = self.convolution.kernel, self.convolution.bias, self.normalization
        if norm is None:
            return kernel, bias
        scale = 1 / ops.sqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale = scale * norm.gamma
        offset = -norm.moving_mean * scale
        if norm.center:
            offset = offset + norm.beta
        if bias is not None:
            offset = offset + bias * scale
        return kernel * (ops.reshape(scale, kernel.shape[2:]) if self.depthwise else scale), offset

    def _convolve(self, x, kernel):
        convolution, zero_padding = self.convolution, self.zero_padding
        strides, dilation = tuple(convolution.strides), tuple(convolution.dilation_rate)
        padding = convolution.padding if zero_padding is None else "valid"
        if zero_padding is not None and keras.backend.backend() == "tensorflow" and not self.depthwise:
            import tensorflow as tf

            return tf.nn.conv2d(x, kernel, strides, [(0, 0), *zero_padding, (0, 0)], dilations=dilation)
        if zero_padding is not None:
            x = ops.pad(x, ((0, 0), *zero_padding, (0, 0)))
        convolve = ops.depthwise_conv if self.depthwise else ops.conv
        return convolve(x, kernel, strides, padding, "channels_last", dilation)

    def compute_output_shape(self, input_shape):
        if self.zero_padding is None:
            return self.convolution.compute_output_shape(input_shape)
        windows = windows_of_convolution(self.convolution, self.zero_padding)
        size = [side and window.size_out(side) for side, window in zip(input_shape[1:3], windows)]
        return (input_shape[0], *size, self.convolution.compute_output_shape(input_shape)[-1])


def fold_convolutions(steps, outputs):
    """The steps with `FoldedConvolution` where there can be one; what it replaces is left in, unread.

    A batch normalisation is folded into the convolution whose output it alone reads, and zero padding into
    the convolution that reads it.
    """
    readers, made = readers_of(steps, outputs), {}
    for step in steps:
        before = made.get(id(step.inputs[0])) if len(step.inputs) == 1 else None
        alone = len(readers[id(step.inputs[0])]) == 1
        folded = before and _folded(before.layer, step.layer, alone)
        made[id(step.output)] = Step(folded, before.args, {}, step.output) if folded else step
    return list(made.values())


def is_plain_convolution(layer):
    """Whether the layer is a convolution of channels last, without activation or groups."""
    return (
        isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D))
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
        and getattr(layer, "groups", 1) == 1
    )


def _folded(before, layer, alone):
    """The convolution that does what `before` and `layer` do, or None.

    Args:
        before: the layer whose output is read.
        layer: the layer that reads it.
        alone: whether no other layer reads it.
    """
    if isinstance(before, layers.ZeroPadding2D) and is_plain_convolution(layer) and layer.padding == "valid":
        return FoldedConvolution(layer, None, before.padding, name=f"{layer.name}_padded")
    if not isinstance(layer, layers.BatchNormalization) or layer.axis not in (-1, 3) or not alone:
        return None
    padding = None
    if isinstance(before, FoldedConvolution) and before.normalization is None:
        before, padding = before.convolution, before.zero_padding
    if not is_plain_convolution(before) or math.prod(before.kernel.shape) > LARGEST_FOLDED:
        return None
    return FoldedConvolution(before, layer, padding, name=f"{before.name}_folded")


def _after(x):
    """What is computed inside waits for `x`; or TensorFlow folds, and holds, all kernels at once."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.control_dependencies([x])
