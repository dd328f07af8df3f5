"""A trained network as inference wants it: the same numbers from fewer and smaller tensors.

The weights stay where they are and are folded anew in each call, so that a folded network costs no memory of
its own and follows its original while that is trained.
"""

import contextlib
import math
from typing import Any, NamedTuple

import keras
from keras import layers, ops

from wsss.models.layers import ResizeLike

NO_PADDING = ((0, 0), (0, 0))
LARGEST_FOLDED = 1 << 22  # weights; folding more of them takes more memory than the maps that it saves
STRIP_ELEMENTS = 1 << 23  # of the widest tensor of a strip: 32 MiB


def fold_for_inference(model):
    """The same function, with fewer and smaller tensors between its convolutions.

    - A batch normalisation is folded into the convolution whose output it alone reads, and zero padding into
      the convolution that reads it.
    - The layers before the widest 1 x 1 convolution that look at one position only are run on some positions
      after the others, so that a tensor of 4096 channels (ResNet-38d) is never held as a whole.

    Args:
        model: functional `keras.Model`.

    Returns:
        `keras.Model` on the same weights, for inference alone; equal to `model` up to rounding.
    """
    steps = []

    def record(layer, *args, **kwargs):
        output = layer(*args, **kwargs)
        steps.append(_Step(layer, args, kwargs, output))
        return output

    copy = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=record)
    steps = _in_strips(_fold_convolutions(steps, copy.outputs), copy.outputs)
    values = {id(x): x for x in copy.inputs}
    _run(_needed(steps, copy.outputs), values)
    return keras.Model(copy.input, [values[id(x)] for x in copy.outputs])


class FoldedConvolution(layers.Layer):
    """Zero padding, a convolution, and a batch normalisation, as one convolution with a bias.

    With the moving mean `m` and variance `v`, `(w * x + b - m) / sqrt(v + epsilon) * gamma + beta` is a
    convolution with the kernel `s w` and the bias `(b - m) s + beta`, `s = gamma / sqrt(v + epsilon)`.

    Args:
        convolution: a built `Conv2D` or `DepthwiseConv2D` without activation.
        normalization: the built `BatchNormalization` of its channels, or None.
        zero_padding: `((top, bottom), (left, right))` of the padding before it.
    """

    def __init__(self, convolution, normalization=None, zero_padding=NO_PADDING, **kwargs):
        super().__init__(dtype=convolution.dtype_policy, trainable=False, **kwargs)
        self.convolution, self.normalization, self.zero_padding = convolution, normalization, zero_padding
        self.built = True

    def call(self, x):
        with _after(x):
            kernel, bias = self._kernel_and_bias()
        x = _convolve(x, ops.cast(kernel, x.dtype), self.convolution, self.zero_padding)
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
        depthwise = isinstance(self.convolution, layers.DepthwiseConv2D)
        return kernel * (ops.reshape(scale, kernel.shape[2:]) if depthwise else scale), offset

    def compute_output_shape(self, input_shape):
        batch, *size, channels = input_shape
        size = [None if side is None else side + sum(added) for side, added in zip(size, self.zero_padding)]
        return self.convolution.compute_output_shape((batch, *size, channels))


class PositionwiseStrips(layers.Layer):
    """Runs a model whose layers look at one position only on some positions after the others.

    Args:
        model: `keras.Model` of maps (batch, height, width, channels) of one size, to one such map.
        channels: of its widest tensor.
    """

    def __init__(self, model, channels, **kwargs):
        super().__init__(trainable=False, **kwargs)
        self.model, self.channels = model, channels
        self.built = True

    def call(self, inputs):
        inputs = keras.tree.flatten(inputs)
        if keras.backend.backend() != "tensorflow":
            return self.model(inputs, training=False)
        import tensorflow as tf

        batch, height, width, _ = ops.shape(inputs[0])
        positions = batch * height * width
        # One row of positions: convolutions are at their best along the last axis of a map.
        rows = [ops.reshape(x, (1, 1, positions, x.shape[-1])) for x in inputs]
        length = -(-positions // (positions * self.channels // STRIP_ELEMENTS + 1))
        count = -(-positions // length)

        def add_strip(index, strips):
            part = [x[:, :, index * length : (index + 1) * length] for x in rows]
            return index + 1, strips.write(index, self.model(part, training=False)[0, 0])

        channels = self.model.output_shape[-1]
        strips = tf.TensorArray(self.compute_dtype, count, infer_shape=False, element_shape=(None, channels))
        _, strips = tf.while_loop(
            lambda index, _: index < count, add_strip, (tf.constant(0), strips), parallel_iterations=1
        )
        return ops.reshape(strips.concat(), (batch, height, width, channels))

    def compute_output_shape(self, input_shapes):
        first = input_shapes[0] if isinstance(input_shapes[0], (tuple, list)) else input_shapes
        return (*first[:3], self.model.output_shape[-1])


class _Step(NamedTuple):
    """One call of a layer in a functional model; tensors are known by their ids."""

    layer: Any
    args: tuple
    kwargs: dict
    output: Any

    @property
    def inputs(self):
        return [x for x in keras.tree.flatten((self.args, self.kwargs)) if isinstance(x, keras.KerasTensor)]


def _run(steps, values):
    """Calls the layers; `values` holds the tensors by the ids of those that they stand for."""
    for layer, args, kwargs, output in steps:
        args, kwargs = keras.tree.map_structure(lambda x: values.get(id(x), x), (args, kwargs))
        for old, new in zip(keras.tree.flatten(output), keras.tree.flatten(layer(*args, **kwargs))):
            values[id(old)] = new


def _readers(steps, outputs):
    """Id of a tensor -> the outputs' ids of the steps that read it; None for the outputs of the model."""
    readers = {id(x): [None] for x in outputs}
    for step in steps:
        for x in step.inputs:
            readers.setdefault(id(x), []).append(id(step.output))
    return readers


def _needed(steps, outputs):
    needed, kept = {id(x) for x in outputs}, []
    for step in reversed(steps):
        if any(id(x) in needed for x in keras.tree.flatten(step.output)):
            needed.update(id(x) for x in step.inputs)
            kept.append(step)
    return kept[::-1]


def _fold_convolutions(steps, outputs):
    """The steps with `FoldedConvolution` where there can be one; what it replaces is left in, unread."""
    readers, made = _readers(steps, outputs), {}
    for step in steps:
        before = made.get(id(step.inputs[0])) if len(step.inputs) == 1 else None
        alone = len(readers[id(step.inputs[0])]) == 1
        folded = before and _folded(before.layer, step.layer, alone)
        made[id(step.output)] = _Step(folded, before.args, {}, step.output) if folded else step
    return list(made.values())


def _folded(before, layer, alone):
    """The convolution that does what `before` and `layer` do, or None.

    Args:
        before: the layer whose output is read.
        layer: the layer that reads it.
        alone: whether no other layer reads it.
    """
    if isinstance(before, layers.ZeroPadding2D) and _is_plain_convolution(layer) and layer.padding == "valid":
        return FoldedConvolution(layer, None, before.padding, name=f"{layer.name}_padded")
    if not isinstance(layer, layers.BatchNormalization) or layer.axis not in (-1, 3) or not alone:
        return None
    padding = NO_PADDING
    if isinstance(before, FoldedConvolution) and before.normalization is None:
        before, padding = before.convolution, before.zero_padding
    if not _is_plain_convolution(before) or math.prod(before.kernel.shape) > LARGEST_FOLDED:
        return None
    return FoldedConvolution(before, layer, padding, name=f"{before.name}_folded")


def _in_strips(steps, outputs):
    """The steps with those before the widest 1 x 1 convolution, as far as they are position-wise, as one."""
    heads = [step for step in steps if isinstance(step.layer, layers.Conv2D) and _is_positionwise(step)]
    if not heads:
        return steps
    head = max(heads, key=lambda step: step.inputs[0].shape[-1])
    # What is read for its size alone need not be there.
    by_value = [_reading_size_of(step, None) if _reads_size(step) else step for step in steps]
    readers, inside = _readers(by_value, outputs), {id(head.output)}
    for step in reversed(steps):
        if _is_positionwise(step) and set(readers.get(id(step.output), [None])) <= inside:
            inside.add(id(step.output))
    tail = [step for step in steps if id(step.output) in inside]
    borders = {id(x): x for step in tail for x in step.inputs if id(x) not in inside}
    channels = max(x.shape[-1] for step in tail for x in step.inputs)
    if channels <= sum(x.shape[-1] for x in borders.values()) / 2:
        return steps  # nothing inside is wider than what is held anyway
    inputs = [keras.Input(x.shape[1:], dtype=x.dtype) for x in borders.values()]
    values = dict(zip(borders, inputs))
    _run(tail, values)
    model = keras.Model(inputs, values[id(head.output)])
    name, dtype = f"{head.layer.name}_strips", head.layer.dtype_policy
    strips = PositionwiseStrips(model, channels, dtype=dtype, name=name)
    whole = _Step(strips, (list(borders.values()),), {}, head.output)
    border = min(borders.values(), key=lambda x: x.shape[-1])
    return [
        whole
        if step is head
        else _reading_size_of(step, border)
        if _reads_size(step) and id(step.inputs[1]) in inside
        else step
        for step in steps
    ]


def _reads_size(step):
    """Whether the second input is read for its height and width alone."""
    return isinstance(step.layer, ResizeLike)


def _reading_size_of(step, like):
    return step._replace(args=([step.inputs[0], like],), kwargs={})


def _after(x):
    """What is computed inside waits for `x`; or TensorFlow folds, and holds, all kernels at once."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.control_dependencies([x])


def _convolve(x, kernel, convolution, zero_padding):
    depthwise = isinstance(convolution, layers.DepthwiseConv2D)
    strides, dilation = tuple(convolution.strides), tuple(convolution.dilation_rate)
    if zero_padding != NO_PADDING and keras.backend.backend() == "tensorflow" and not depthwise:
        import tensorflow as tf

        return tf.nn.conv2d(x, kernel, strides, [(0, 0), *zero_padding, (0, 0)], dilations=dilation)
    if zero_padding != NO_PADDING:
        x = ops.pad(x, ((0, 0), *zero_padding, (0, 0)))
    convolve = ops.depthwise_conv if depthwise else ops.conv
    return convolve(x, kernel, strides, convolution.padding, "channels_last", dilation)


def _is_plain_convolution(layer):
    return (
        isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D))
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
        and getattr(layer, "groups", 1) == 1
    )


def _is_positionwise(step):
    """Whether the output at a position depends on that position alone."""
    layer = step.layer
    if isinstance(layer, FoldedConvolution):
        if layer.zero_padding != NO_PADDING:
            return False
        layer = layer.convolution
    if isinstance(layer, layers.DepthwiseConv2D):
        return False
    if isinstance(layer, layers.Conv2D):
        return (
            layer.kernel_size == (1, 1) and layer.strides == (1, 1) and layer.data_format == "channels_last"
        )
    if isinstance(layer, layers.Add):
        return len({x.shape for x in step.inputs}) == 1
    if isinstance(layer, layers.BatchNormalization):
        return layer.axis in (-1, 3)
    return isinstance(layer, (layers.Activation, layers.ReLU, layers.SpatialDropout2D))
