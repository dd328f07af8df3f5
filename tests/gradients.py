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


def loss_gradients(model, images, labels):
    """Gradients of the loss that `model`, compiled, trains by.

    Args:
        model: `keras.Model`.
        images, labels: NumPy arrays, one batch.

    Returns:
        List of NumPy arrays in the order of `model.trainable_variables`, zeros where nothing is learned.
    """
    variables = model.trainable_variables
    values = [variable.value for variable in variables]
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        model.optimizer.build(variables)
        kept = (model.non_trainable_variables, model.metrics_variables, model.optimizer.variables)
        kept = [[variable.value for variable in group] for group in kept]

        def loss(values, non_trainable, metrics, optimizer):
            batch = {"x": images, "y": labels, "sample_weight": None, "training": True}
            return model.compute_loss_and_updates(
                values, non_trainable, metrics, optimizer_variables=optimizer, **batch
            )

        gradients, _ = jax.jit(jax.grad(loss, has_aux=True))(values, *kept)
    elif backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = model.compute_loss(images, labels, model(images, training=True))
        gradients = tape.gradient(loss, values, unconnected_gradients="zero")
    else:
        import torch

        loss = model.compute_loss(images, labels, model(images, training=True))
        gradients = torch.autograd.grad(loss, values, allow_unused=True)
        gradients = [torch.zeros_like(v) if g is None else g for v, g in zip(values, gradients)]
    return [np.asarray(ops.convert_to_numpy(gradient)) for gradient in gradients]


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
