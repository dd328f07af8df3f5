"""Which code TensorFlow computes with here."""

import functools

import keras


@functools.cache
def has_dilated_gradient():
    """Whether TensorFlow can differentiate a dilated convolution here; it tells by trying one."""
    import tensorflow as tf

    with tf.init_scope(), tf.device("CPU"):
        x, kernel = tf.zeros((1, 3, 3, 1)), tf.zeros((3, 3, 1, 1))
        try:
            tf.raw_ops.Conv2DBackpropFilter(
                input=x,
                filter_sizes=kernel.shape,
                out_backprop=x,
                strides=[1] * 4,
                padding="SAME",
                dilations=[1, 2, 2, 1],
            )
        except tf.errors.OpError:
            return False
    return True


@functools.cache
def multiplies_by_eigen():
    """Whether TensorFlow computes on the CPU and without oneDNN, which alone dilates a gradient there."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    only_cpus = all(device.device_type == "CPU" for device in tf.config.list_logical_devices())
    return only_cpus and not has_dilated_gradient()
