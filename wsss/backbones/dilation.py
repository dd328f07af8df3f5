"""Turns a strided Keras CNN into a dense one: strides become dilation, weights stay."""

from typing import Any, NamedTuple

import keras
from keras import layers, ops

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
POOLINGS = (layers.MaxPooling2D, layers.AveragePooling2D)
NO_PADDING = ((0, 0), (0, 0))


class DenseNetwork(NamedTuple):
    """Outputs of `to_dense`."""

    output: Any  # Keras tensor, the features
    stages: dict  # stride in the original network -> Keras tensor, the last features at that stride
    output_stride: int  # of `output`, in pixels of the image


class _Grid(NamedTuple):
    """Where the values of a tensor lie: `stride` pixels apart, `dilation` cells to one of the original."""

    stride: int = 1
    dilation: int = 1


@keras.saving.register_keras_serializable(package="wsss")
class DilatedPooling2D(keras.layers.Layer):
    """Maximum or mean of a window with gaps, at every position.

    Args:
        mode: "max" or "average". Positions outside of the image count in neither.
        pool_size: `(rows, columns)` of the window.
        dilation_rate: distance of the window's neighbors.
        padding: `((top, bottom), (left, right))`, positions added around the image.
    """

    def __init__(
        self,
        mode: str,
        pool_size: tuple[int, int],
        dilation_rate: int = 1,
        padding: tuple[tuple[int, int], tuple[int, int]] = NO_PADDING,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if mode not in ("max", "average"):
            raise ValueError(f'`mode` must be "max" or "average". Received: {mode!r}.')
        self.mode, self.pool_size, self.dilation_rate = mode, tuple(pool_size), int(dilation_rate)
        self.padding = tuple(tuple(side) for side in padding)

    def call(self, x):
        lowest = -65504.0 if keras.backend.standardize_dtype(x.dtype) == "float16" else -3e38
        if self.mode == "max":
            return self._reduce(x, lowest, ops.maximum)
        count = self._reduce(ops.ones_like(x[:1, :, :, :1]), 0.0, ops.add)
        return self._reduce(x, 0.0, ops.add) / count

    def _reduce(self, x, fill, combine):
        x = ops.pad(x, ((0, 0), *self.padding, (0, 0)), constant_values=fill)
        for axis, size in ((1, self.pool_size[0]), (2, self.pool_size[1])):
            windows = [
                _shifted(x, axis, i * self.dilation_rate, size, self.dilation_rate) for i in range(size)
            ]
            x = windows[0]
            for window in windows[1:]:
                x = combine(x, window)
        return x

    def compute_output_shape(self, input_shape):
        size = list(input_shape)
        for axis in (1, 2):
            if size[axis] is not None:
                reach = (self.pool_size[axis - 1] - 1) * self.dilation_rate
                size[axis] += sum(self.padding[axis - 1]) - reach
        return tuple(size)

    def get_config(self):
        own = {
            "mode": self.mode,
            "pool_size": self.pool_size,
            "dilation_rate": self.dilation_rate,
            "padding": self.padding,
        }
        return {**super().get_config(), **own}


def to_dense(model: keras.Model, image: Any, output_stride: int) -> DenseNetwork:
    """Rebuilds a functional CNN with dilated convolutions in place of strides beyond `output_stride`.

    Every layer that would pass `output_stride` gets stride 1, and all layers after it get that much more
    dilation, so that each sees the cells that it saw in the original network. Layers are copied with their
    names and weights; where no stride changes, the outputs are equal.

    Alignment. A dense map has the center of each window on the cell itself. A strided convolution with
    `padding="same"` starts its windows so too where the size of its input is odd; where it is even, they
    lie half a stride further. So with inputs of `n * stride + 1` pixels the strided network's features are
    `dense[:, ::r, ::r]`, with `r` the ratio of the strides, and with even sizes they are
    `dense[:, r - 1::r, r - 1::r]` for networks that pad explicitly (MobileNet, EfficientNet).

    Args:
        model: functional or sequential `keras.Model` with one image as input and one feature map as output.
        image: Keras tensor (batch, height, width, channels), the new input.
        output_stride: >= 1, pixels of the image per cell of the features.

    Returns:
        `DenseNetwork`. `stages` holds the last tensor at each stride of the original network, where the
        dense network has the same or a smaller stride.

    Raises:
        ValueError: a strided layer of a kind that cannot be dilated, or unequal strides.
    """
    conversion = _Conversion(output_stride)
    conversion.place(image, _Grid())
    flat = _flatten_nested(keras.Model(model.inputs, model.outputs))
    structure = keras.tree.pack_sequence_as(flat.input, [image])
    keras.models.clone_model(
        flat,
        input_tensors=structure,
        clone_function=lambda layer: layer,
        call_function=conversion.call,
    )
    output = conversion.last
    grid = conversion.grid(output)
    conversion.stages[grid.stride * grid.dilation] = output
    return DenseNetwork(output, dict(sorted(conversion.stages.items())), grid.stride)


def _flatten_nested(model):
    """The same layers without models inside of the model."""

    def call(layer, *args, **kwargs):
        # `call` in place of `__call__` leaves the layers of the inner model in the graph one by one.
        return layer.call(*args, **kwargs) if isinstance(layer, keras.Model) else layer(*args, **kwargs)

    while any(isinstance(layer, keras.Model) for layer in model.layers):
        model = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)
    return model


class _Conversion:
    """The state of one `to_dense`: where each tensor lies, and which copies of layers exist."""

    def __init__(self, output_stride):
        if output_stride < 1:
            raise ValueError(f"`output_stride` must be positive. Received: {output_stride}.")
        self.output_stride = output_stride
        self.stages = {}
        self.last = None
        self._tensors = {}  # id -> (tensor, _Grid); the tensor is kept, so that its id stays taken
        self._padded = {}  # id of a padded tensor -> (tensor before, original padding)
        self._copies = {}  # (id of a layer, changes) -> its copy

    def place(self, tensor, grid):
        self._tensors[id(tensor)] = (tensor, grid)

    def grid(self, tensor):
        return self._tensors[id(tensor)][1]

    def call(self, layer, *args, **kwargs):
        """Calls the copy of `layer`, changed as its place asks for; `clone_model` walks the graph."""
        tensors = [x for x in keras.tree.flatten((args, kwargs)) if id(x) in self._tensors]
        # Branches of squeeze-and-excite blocks hold one cell an image; the finest grid is the map's.
        spatial = [x for x in tensors if len(x.shape) == 4] or tensors
        grid = max((self.grid(x) for x in spatial), default=_Grid(), key=lambda grid: grid.stride)
        stride = _stride(layer)
        if stride > 1 and tensors:
            source, _ = self._padded.get(id(tensors[0]), (tensors[0], None))
            self.stages.setdefault(grid.stride * grid.dilation, source)
        converted = stride > 1 and grid.stride * stride > self.output_stride
        if isinstance(layer, (layers.ZeroPadding2D, layers.Cropping2D)):
            output = self._pad_or_crop(layer, tensors[0], grid.dilation)
        elif (converted or grid.dilation > 1) and isinstance(layer, (*CONVOLUTIONS, *POOLINGS)):
            output = self._dilated(layer, tensors[0], grid.dilation, stride if converted else 1)
        elif converted:
            raise ValueError(
                f"Layer {layer.name!r} ({type(layer).__name__}) has strides {stride} and no dilation, so the "
                f"network cannot be brought to output stride {self.output_stride}. Choose a larger one."
            )
        else:
            output = self._copy(layer)(*args, **kwargs)
        if converted:
            grid = _Grid(grid.stride, grid.dilation * stride)
        else:
            grid = _Grid(grid.stride * stride, grid.dilation)
        for tensor in keras.tree.flatten(output):
            self.place(tensor, grid)
            self.last = tensor
        return output

    def _pad_or_crop(self, layer, x, dilation):
        amount = layer.padding if isinstance(layer, layers.ZeroPadding2D) else layer.cropping
        name = "padding" if isinstance(layer, layers.ZeroPadding2D) else "cropping"
        output = self._copy(layer, **{name: _times(amount, dilation)})(x)
        if name == "padding":
            self._padded[id(output)] = (x, amount)
        return output

    def _dilated(self, layer, x, dilation, lost_stride):
        """Calls `layer` with stride 1 and `dilation`, padded so that no cell is lost with the stride."""
        pooling = isinstance(layer, POOLINGS)
        kernel = layer.pool_size if pooling else layer.kernel_size
        inner = (1, 1) if pooling else layer.dilation_rate
        reach = tuple((k - 1) * d for k, d in zip(kernel, inner))  # cells of the original beyond the first
        source, before = self._padded.get(id(x), (x, NO_PADDING))
        if layer.padding == "same":
            missing = tuple((r // 2, r - r // 2) for r in reach)
            source, before = x, NO_PADDING
        else:
            missing = tuple(_missing(sum(b), r + 1, lost_stride, b[0] < b[1]) for b, r in zip(before, reach))
        total = tuple((b[0] + m[0], b[1] + m[1]) for b, m in zip(before, missing))
        centerd = all(t == (r // 2, r // 2) and r % 2 == 0 for t, r in zip(total, reach))
        if pooling:
            mode = "max" if isinstance(layer, layers.MaxPooling2D) else "average"
            return DilatedPooling2D(mode, kernel, dilation, _times(missing, dilation), name=layer.name)(x)
        spread = dilation if any(reach) else 1  # a 1 x 1 kernel has nothing to spread
        changes = {"strides": (1, 1), "dilation_rate": tuple(d * spread for d in inner)}
        if centerd:
            return self._copy(layer, **changes, padding="same")(source)
        if missing != NO_PADDING:
            x = layers.ZeroPadding2D(_times(missing, dilation), name=f"{layer.name}_dense_padding")(x)
        return self._copy(layer, **changes, padding="valid")(x)

    def _copy(self, layer, **changes):
        if not isinstance(layer, keras.layers.Layer):
            return layer
        key = (id(layer), str(sorted(changes.items())))
        if key not in self._copies:
            # The number format of this run, not of the one that saved the layer.
            config = {**layer.get_config(), **changes, "dtype": keras.config.dtype_policy().name}
            copy = type(layer).from_config(config)
            if layer.built and layer.weights:
                copy.build_from_config(layer.get_build_config())
                copy.set_weights(layer.get_weights())
            self._copies[key] = copy
        return self._copies[key]


def _stride(layer):
    strides = getattr(layer, "strides", 1)
    strides = (strides,) if isinstance(strides, int) else tuple(strides)
    if len(set(strides)) > 1:
        raise ValueError(
            f"Layer {layer.name!r} has unequal strides {strides}; only equal ones can be dilated."
        )
    return strides[0]


def _missing(padding, window, stride, before):
    """Padding that keeps `stride` dense cells for each cell of the strided output, on one side."""
    extra = stride - 1 - (padding - window) % stride
    return (extra, 0) if before else (0, extra)


def _times(padding, factor):
    return tuple(tuple(int(side) * factor for side in axis) for axis in padding)


def _shifted(x, axis, start, size, dilation):
    """`x` from `start` on, as long as the window of `size` leaves room."""
    stop = start - (size - 1) * dilation
    index = [slice(None)] * 4
    index[axis] = slice(start, stop if stop < 0 else None)
    return x[tuple(index)]
