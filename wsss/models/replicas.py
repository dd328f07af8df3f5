"""Sums and batches across the replicas of `tf.distribute`, for losses that compare images.

Most terms are means over images, and the mean over the replicas is the mean over the batch. A term that
counts or compares across images is not; with these two functions it is, so that one replica equals many. They
are the only place of model code that calls `tf.distribute`; under other backends, and with one replica,
they return what they are given.
"""

from typing import Any

import keras
from keras import ops


def mean_over_replicas(x: Any) -> Any:
    """The mean of a tensor over all replicas; no gradient.

    Args:
        x: float, the same shape on every replica.

    Returns:
        float, shaped like `x`.
    """
    context = _replica_context()
    if context is None:
        return ops.stop_gradient(x)
    return _sum(context, ops.stop_gradient(x)) / context.num_replicas_in_sync


def gather_batch(x: Any) -> Any:
    """The rows of all replicas, in the order of the global batch.

    A loss computed alike on every replica from gathered tensors, and averaged over the replicas as Keras
    does, is the loss of the global batch and has its gradient: each replica's own rows carry the gradient,
    times the number of replicas.

    Args:
        x: float (rows, …), the same shape on every replica.

    Returns:
        float (replicas * rows, …).
    """
    context = _replica_context()
    if context is None:
        return x
    count = context.num_replicas_in_sync
    place = ops.one_hot(context.replica_id_in_sync_group, count, dtype=x.dtype)
    place = ops.reshape(place, (count, *[1] * len(x.shape)))
    own = place * x[None]
    everyone = _sum(context, ops.stop_gradient(own))
    everyone = everyone + count * (own - ops.stop_gradient(own))
    return ops.reshape(everyone, (-1, *x.shape[1:]))


def _sum(context, x):
    import tensorflow as tf

    return context.all_reduce(tf.distribute.ReduceOp.SUM, x)


def _replica_context():
    """TensorFlow's replica context where there are several replicas, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context() if tf.distribute.has_strategy() else None
    return context if context is not None and context.num_replicas_in_sync > 1 else None
