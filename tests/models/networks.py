"""Small networks and data of the tests of the models."""

import keras
import numpy as np
from keras import layers

from wsss.models.cam_classifier import CamClassifier
from wsss.models.pixel2prototype import Pixel2Prototype
from wsss.models.seam import SEAM

CLASSES = 3
MODELS = {
    "seam_affine": (SEAM, {"view": "affine", "seed": 1}),
    "seam_rescale": (SEAM, {"view": "rescale", "view_scale": 0.6, "seed": 1}),
    "pixel2prototype": (
        Pixel2Prototype,
        {"view": "rescale", "view_size": (10, 12), "contrast_grid": (4, 4), "nce_tau": 0.5, "seed": 1},
    ),
}

# Steps are eager, since tracing takes seconds; but JAX compiles every operation of an eager step alone.
ALWAYS_COMPILED = keras.backend.backend() == "jax"


def tiny_model(
    kind="seam_rescale", *, run_eagerly=not ALWAYS_COMPILED, jit_compile=ALWAYS_COMPILED, **options
):
    """A model on a CNN of one convolution, compiled with plain SGD."""
    keras.utils.set_random_seed(0)
    model_class, own = MODELS.get(kind, (CamClassifier, {}))
    image = layers.Input((None, None, 3), name="image")
    feature = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="features")(image)
    model = model_class(image, feature, CLASSES, **{**own, **options})
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        loss="binary_crossentropy",
        metrics=["accuracy"],
        run_eagerly=run_eagerly,
        jit_compile=jit_compile,
    )
    return model


def images_and_labels(count=4, height=12, width=14):
    """Random images in [0, 1] and multi-hot labels, no image without a class."""
    rng = np.random.default_rng(0)
    labels = (rng.uniform(size=(count, CLASSES)) < 0.5).astype("float32")
    labels[np.arange(count), rng.integers(0, CLASSES, count)] = 1
    return rng.uniform(size=(count, height, width, 3)).astype("float32"), labels


def losses_of(history):
    """Last value of every loss and metric of `fit`."""
    return {name: values[-1] for name, values in history.history.items()}
