"""What is asserted of every network that learns from pairs of pixels."""

import keras
import numpy as np


def bright_images(labels):
    """Images of what is labeled 1, bright on a dark ground."""
    noise = np.random.default_rng(0).uniform(0, 0.2, (*labels.shape, 3))
    return (noise + 0.7 * (labels == 1)[..., None]).astype("float32")


def assert_two_replicas_train_as_one(make_model, images, labels, learning_rate, two_replicas):
    """The same losses and weights; the replicas should know different numbers of pairs."""
    import tensorflow as tf

    results = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            model = make_model()
            model.compile(keras.optimizers.SGD(learning_rate))
        history = model.fit(images, labels, batch_size=4, epochs=2, shuffle=False, verbose=0)
        results.append((history.history["loss"], model.get_weights()))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    for one, two in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
