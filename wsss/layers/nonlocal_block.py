"""Non-local block: attention of every position to every other one."""

from typing import Any

import keras
from keras import layers, ops

from wsss.ops.correlation import pixel_correlation
from wsss.ops.vectors import unit_vectors


def nonlocal_neural_network(
    x: Any,
    g: Any = None,
    use_gaussian: bool = True,
    use_relu: bool = False,
    embed1: Any = None,
    embed2: Any = None,
    mode: str = "spatial",
    epsilon: float = 1e-6,
    name: str = "nonlocal",
) -> Any:
    """Each position replaced by a mean over all positions, weighted by how alike they are.

    Source: Wang et al., "Non-local Neural Networks", CVPR 2018, equations 1 and 4; without the residual.

    Args:
        x: float (batch, height, width, channels), Keras tensor or array.
        g: what is averaged: a tensor of the size of `x`, or a function of `x`. None: `x` itself.
        use_gaussian: weights are the softmax of the dot products ("embedded Gaussian"); otherwise cosines,
            divided by their sum.
        use_relu: cosines below 0 count as 0.
        embed1, embed2: what is compared, each a tensor of the size of `x`, or a function of `x` (say,
            a layer). None: `x` itself.
        mode: "spatial", or "channel" to compare channels over all positions in place of positions; `g` then
            has as many channels as `embed2`.
        epsilon: > 0, against division by zero.
        name: of the layer.

    Returns:
        float (batch, height, width, channels of `g`); in the mode "channel" as many as `embed1` has.
    """
    parts = [
        x if part is None else part(x) if callable(part) and not hasattr(part, "shape") else part
        for part in (embed1, embed2, g)
    ]
    layer = NonLocal(use_gaussian, use_relu, mode, epsilon, name=name)
    if not use_gaussian and use_relu and mode == "spatial" and parts[0] is parts[1]:
        return layer([parts[0], parts[2]])
    return layer(parts)


@keras.saving.register_keras_serializable(package="wsss")
class NonLocal(layers.Layer):
    """The layer of `nonlocal_neural_network`, on `[embed1, embed2, g]`, or `[embed, g]` for both the same.

    The cosine of one embedding with `use_relu` is SEAM's pixel correlation and never holds the similarity of
    all pairs of positions; the other variants do.

    Args:
        use_gaussian, use_relu, mode, epsilon: see `nonlocal_neural_network`.
    """

    def __init__(
        self,
        use_gaussian: bool = True,
        use_relu: bool = False,
        mode: str = "spatial",
        epsilon: float = 1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if mode not in ("spatial", "channel"):
            raise ValueError(f'`mode` must be "spatial" or "channel". Received: {mode!r}.')
        self.use_gaussian, self.use_relu, self.mode, self.epsilon = use_gaussian, use_relu, mode, epsilon

    def call(self, inputs):
        *embeddings, values = inputs
        if len(embeddings) == 1:
            return pixel_correlation(values, embeddings[0], epsilon=self.epsilon)
        batch, height, width, _ = ops.shape(values)
        first, second, values = (_as_rows(x, self.mode) for x in (*embeddings, values))
        if not self.use_gaussian:
            first, second = (unit_vectors(x, self.epsilon) for x in (first, second))
        similarity = ops.matmul(first, ops.transpose(second, (0, 2, 1)))
        if self.use_gaussian:
            weights = ops.softmax(similarity, axis=-1)
        else:
            weights = ops.relu(similarity) if self.use_relu else similarity
            weights = weights / (ops.sum(weights, axis=-1, keepdims=True) + self.epsilon)
        result = ops.matmul(weights, values)
        if self.mode == "channel":
            result = ops.transpose(result, (0, 2, 1))
        return ops.reshape(result, (batch, height, width, result.shape[-1]))

    def compute_output_shape(self, input_shapes):
        first, *_, values = input_shapes
        return (*values[:3], first[-1] if self.mode == "channel" else values[-1])

    def get_config(self):
        own = {
            "use_gaussian": self.use_gaussian,
            "use_relu": self.use_relu,
            "mode": self.mode,
            "epsilon": self.epsilon,
        }
        return {**super().get_config(), **own}


def _as_rows(x, mode):
    """`(batch, positions, channels)`, or transposed where channels are compared."""
    batch, height, width, channels = ops.shape(x)
    rows = ops.reshape(x, (batch, height * width, channels))
    return rows if mode == "spatial" else ops.transpose(rows, (0, 2, 1))
