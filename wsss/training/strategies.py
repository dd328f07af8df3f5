"""Where the replicas of the model run: one place to choose, the same `Model.fit` in all of them."""

import json
import os
from typing import Any

import keras
import tensorflow as tf

from wsss.common import compat
from wsss.common.errors import UserError


def make_strategy(name: str, cpu_replicas: int = 1) -> tf.distribute.Strategy:
    """The `tf.distribute` strategy of a name.

    Args:
        name: `default` (one device), `mirrored` (every accelerator of this machine, or its CPU),
            `multi_worker` (every process named in the environment variable `TF_CONFIG`) or `tpu`.
        cpu_replicas: replicas on a machine without an accelerator, under `mirrored` and `multi_worker`.

    Raises:
        UserError: the devices or the cluster are not there.
    """
    if cpu_replicas > 1:
        _split_cpu(cpu_replicas)
    if name == "default":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(_local_devices())
    if name == "multi_worker":
        return _multi_worker_strategy()
    return _tpu_strategy()


def is_chief(strategy: Any) -> bool:
    """Whether this process writes the run directory; every process computes the same."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or not resolver.task_type:
        return True
    return resolver.task_type == "chief" or (
        resolver.task_type == "worker"
        and resolver.task_id == 0
        and "chief" not in resolver.cluster_spec().jobs
    )


def prepare_model(model: keras.Model, strategy: Any, batch_shapes: tuple) -> None:
    """Works around two faults of Keras 3 under `MultiWorkerMirroredStrategy`; nothing else is touched.

    Before the first step `Model.fit` averages a batch over the workers to learn its shape, which fails on a
    batch that lies on several machines; the shape is given here instead. After each step it reduces the
    scalar metrics along an axis that scalars do not have; so they get one. See keras-team/keras issue 20585.

    Args:
        model: a compiled model, made under `strategy`.
        strategy: its strategy.
        batch_shapes: shapes of images and labels of one replica's part of a batch.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    batch = tuple(keras.KerasTensor(shape, "float32") for shape in batch_shapes)
    with strategy.scope():
        compat.build_symbolically(model, batch)
    train_step = model.train_step
    model.train_step = lambda data: {
        name: tf.reshape(value, (1,)) for name, value in train_step(data).items()
    }


def _split_cpu(count):
    (cpu,) = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    try:
        tf.config.set_logical_device_configuration(cpu, devices)
    except RuntimeError:  # TensorFlow has started its devices already
        available = len(tf.config.list_logical_devices("CPU"))
        if available < count:
            raise UserError(
                f"--cpu_replicas {count} must be set before TensorFlow starts; it runs with {available}."
            ) from None


def _local_devices():
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]


def _multi_worker_strategy():
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}")
    except json.JSONDecodeError as error:
        raise UserError(f"The environment variable TF_CONFIG is not JSON ({error}).") from None
    if not cluster.get("cluster"):
        raise UserError(
            "--strategy multi_worker needs the cluster in the environment variable TF_CONFIG, e.g. "
            '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}.'
        )
    return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu_strategy():
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:  # the resolver raises what the network, the cloud and TensorFlow raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"--strategy tpu found no TPU ({reason[:200]}). Is TPU_NAME set?") from None
