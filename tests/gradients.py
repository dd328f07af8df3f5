"""Values, gradients and compilation of a `keras.ops` function, on whatever backend runs the tests."""

import keras
import numpy as np
from keras import ops


def value_and_gradients(function, *arrays):
    """`function(*arrays)`, a scalar, and its gradient with respect to each array.

    Args:
        function: tensors -> scalar tensor.
        *arrays: NumPy arrays.

    Returns:
        float, list of NumPy arrays (zeros where the function ignores the argument).
    """
    tensors = [ops.convert_to_tensor(array) for array in arrays]
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        gradients = tape.gradient(value, tensors, unconnected_gradients="zero")
    elif backend == "jax":
        import jax

        arguments = tuple(range(len(tensors)))
        value, gradients = jax.jit(jax.value_and_grad(function, argnums=arguments))(*tensors)
    else:
        import torch

        tensors = [tensor.detach().requires_grad_() for tensor in tensors]
        value = function(*tensors)
        if value.requires_grad:
            gradients = torch.autograd.grad(value, tensors, allow_unused=True)
        else:
            gradients = [None] * len(tensors)
        gradients = [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, gradients)]
    return float(ops.convert_to_numpy(value)), [ops.convert_to_numpy(gradient) for gradient in gradients]


def gradients(function, *arrays):
    """The gradients alone of `value_and_gradients`."""
    return value_and_gradients(function, *arrays)[1]


def compiled(function):
    """`function` under the backend's compiler (XLA for TensorFlow and JAX), arrays in, arrays out."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        function = tf.function(function, jit_compile=True)
    elif backend == "jax":
        import jax

        function = jax.jit(function)
    return lambda *arrays: to_numpy(function(*(ops.convert_to_tensor(array) for array in arrays)))


def evaluate(function, *arrays):
    """`function(*arrays)` in NumPy; under JAX compiled, which eagerly compiles every operation alone."""
    if keras.backend.backend() == "jax":
        return compiled(function)(*arrays)
    return to_numpy(function(*(ops.convert_to_tensor(array) for array in arrays)))


def to_numpy(tensors):
    """A tensor or a structure of tensors as NumPy arrays."""
    return keras.tree.map_structure(
        lambda tensor: np.asarray(ops.convert_to_numpy(tensor)) if tensor is not None else None, tensors
    )
