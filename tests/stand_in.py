"""A tiny model with the parts that inference reads, for tests that need no training."""

from types import SimpleNamespace

import keras


def stand_in_model(classes=3, seed=0, shape=(None, None, 3)):
    """An object with Keras models `cam`, `refined_cam` and `classifier` on the same weights, stride 4."""
    init = keras.initializers.RandomNormal(stddev=0.5, seed=seed)
    layers = keras.layers
    images = layers.Input(shape)
    x = layers.Conv2D(8, 5, strides=4, padding="same", activation="relu", kernel_initializer=init)(images)
    cam = layers.Conv2D(classes, 3, padding="same", kernel_initializer=init, name="head")(x)
    refined = layers.AveragePooling2D(3, strides=1, padding="same")(layers.ReLU()(cam))
    scores = layers.Activation("sigmoid")(layers.GlobalAveragePooling2D()(cam))
    return SimpleNamespace(
        cam=keras.Model(images, cam),
        refined_cam=keras.Model(images, refined),
        classifier=keras.Model(images, scores),
    )
