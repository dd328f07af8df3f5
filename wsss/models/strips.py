"""The widest part of a network run on some positions after the others, so that it is never held whole."""

import keras
from keras import layers, ops

from wsss.models.folding import NO_PADDING, FoldedConvolution
from wsss.models.graph import Step, readers_of, submodel
from wsss.models.layers import ResizeLike

STRIP_ELEMENTS = 1 << 23  # of the widest tensor of a strip: 32 MiB


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


def run_tail_in_strips(steps, outputs):
    """The steps with those before the widest 1 x 1 convolution, as far as they are position-wise, as one.

    So a tensor of 4096 channels (ResNet-38d) is never held as a whole.
    """
    heads = [step for step in steps if isinstance(step.layer, layers.Conv2D) and is_positionwise(step)]
    if not heads:
        return steps
    head = max(heads, key=lambda step: step.inputs[0].shape[-1])
    # What is read for its size alone need not be there.
    by_value = [_reading_size_of(step, None) if _reads_size(step) else step for step in steps]
    readers, inside = readers_of(by_value, outputs), {id(head.output)}
    for step in reversed(steps):
        read_by = readers.get(id(step.output), [None])
        if is_positionwise(step) and all(reader and id(reader.output) in inside for reader in read_by):
            inside.add(id(step.output))
    tail = [step for step in steps if id(step.output) in inside]
    borders = list({id(x): x for step in tail for x in step.inputs if id(x) not in inside}.values())
    channels = max((x.shape[-1] for step in tail for x in step.inputs if id(x) in inside), default=0)
    if channels <= sum(x.shape[-1] for x in borders) / 2:
        return steps  # nothing inside is wider than what is held anyway
    model = submodel(tail, borders, head.output)
    name, dtype = f"{head.layer.name}_strips", head.layer.dtype_policy
    strips = PositionwiseStrips(model, channels, dtype=dtype, name=name)
    whole = Step(strips, (borders,), {}, head.output)
    narrowest = min(borders, key=lambda x: x.shape[-1])
    return [
        whole
        if step is head
        else _reading_size_of(step, narrowest)
        if _reads_size(step) and id(step.inputs[1]) in inside
        else step
        for step in steps
    ]


def is_positionwise(step):
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


def _reads_size(step):
    """Whether the second input is read for its height and width alone."""
    return isinstance(step.layer, ResizeLike)


def _reading_size_of(step, like):
    return step._replace(args=([step.inputs[0], like],), kwargs={})
