"""A Keras network as a compiled function, under the backend that Keras runs on."""

import threading
from collections import OrderedDict

import keras
import numpy as np

_SEEN_BEFORE_COMPILED = 2  # calls of a size until XLA compiles it; sizes that come up once do not pay


def compile_network(
    network: keras.Model, *, jit_compile: bool = False, max_compiled_sizes: int = 16
) -> "CompiledNetwork":
    """The function uint8 images (batch, height, width, 3) -> list of float32 outputs, NumPy arrays.

    Args:
        network: for images in [0, 1] of any size. Its weights are read in every call.
        jit_compile: let XLA compile it for exact sizes under TensorFlow; under JAX it always does.
        max_compiled_sizes: see `InferenceSettings`.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return TensorFlowNetwork(network, max_compiled_sizes if jit_compile else 0)
    if backend == "jax":
        return JaxNetwork(network, max_compiled_sizes)
    return EagerNetwork(network)


class CompiledNetwork:
    """Base of the compiled networks; a call is safe in several threads.

    Attributes:
        compilations: how often the network was compiled for an exact size so far.
    """

    def __init__(self, network: keras.Model):
        self.network = network
        self.compilations = 0
        self._lock = threading.Lock()

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        raise NotImplementedError


class TensorFlowNetwork(CompiledNetwork):
    """One graph for all sizes, and XLA's code for the first sizes that come up twice.

    Args:
        network: `keras.Model`.
        max_compiled_sizes: sizes that XLA compiles; 0: none.
    """

    def __init__(self, network: keras.Model, max_compiled_sizes: int):
        super().__init__(network)
        import tensorflow as tf

        def forward(images):
            outputs = network(tf.cast(images, tf.float32) / 255, training=False)
            return [tf.cast(x, tf.float32) for x in keras.tree.flatten(outputs)]

        any_size = [tf.TensorSpec((None, None, None, 3), tf.uint8)]
        self.any_size = tf.function(forward, input_signature=any_size, autograph=False)
        self._forward = forward
        self._max_compiled_sizes = max_compiled_sizes
        self._seen: dict = {}
        self._compiled: dict = {}

    def __call__(self, images):
        import tensorflow as tf

        function = self._compiled_for(images.shape) if self._max_compiled_sizes else self.any_size
        return [x.numpy() for x in function(tf.constant(images))]

    def _compiled_for(self, shape):
        import tensorflow as tf

        with self._lock:
            if shape not in self._compiled and len(self._compiled) < self._max_compiled_sizes:
                self._seen[shape] = self._seen.get(shape, 0) + 1
                if self._seen[shape] >= _SEEN_BEFORE_COMPILED:
                    function = tf.function(self._forward, jit_compile=True, autograph=False)
                    self._compiled[shape] = function.get_concrete_function(tf.TensorSpec(shape, tf.uint8))
                    self.compilations += 1
            return self._compiled.get(shape, self.any_size)


class JaxNetwork(CompiledNetwork):
    """XLA's code for each size; the sizes that were used last are kept.

    Args:
        network: `keras.Model`.
        max_compiled_sizes: sizes that are kept.
    """

    def __init__(self, network: keras.Model, max_compiled_sizes: int):
        super().__init__(network)
        self._max_compiled_sizes = max(max_compiled_sizes, 1)
        self._compiled: OrderedDict = OrderedDict()

    def __call__(self, images):
        variables = self.network.trainable_variables, self.network.non_trainable_variables
        weights = [[variable.value for variable in group] for group in variables]
        return [np.asarray(x) for x in self._compiled_for(images, weights)(*weights, images)]

    def _compiled_for(self, images, weights):
        import jax

        with self._lock:
            if images.shape not in self._compiled:
                self._compiled[images.shape] = jax.jit(self._forward).lower(*weights, images).compile()
                self.compilations += 1
                if len(self._compiled) > self._max_compiled_sizes:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(images.shape)
            return self._compiled[images.shape]

    def _forward(self, trainable, non_trainable, images):
        images = keras.ops.cast(images, "float32") / 255
        outputs, _ = self.network.stateless_call(trainable, non_trainable, images, training=False)
        return [keras.ops.cast(x, "float32") for x in keras.tree.flatten(outputs)]


class EagerNetwork(CompiledNetwork):
    """The network as Keras runs it, without gradients: PyTorch, which needs no graph for mixed sizes."""

    def __call__(self, images):
        import torch

        with torch.no_grad():
            outputs = self.network(keras.ops.cast(images, "float32") / 255, training=False)
            return [
                keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")) for x in keras.tree.flatten(outputs)
            ]
