"""A collection and flags so small that a whole training run takes seconds."""

import os
import subprocess
import sys

import keras
import numpy as np

import wsss.models  # noqa: F401  so that `.keras` files load
from wsss.data.synthetic import write_synthetic_collection

STEPS_PER_EPOCH = 4
FLAGS = {
    "backbone": "small",
    "backbone_weights": "none",
    "output_stride": 8,
    "image_size": 32,
    "long_side": "32,40",
    "batch_size": 4,
    "epochs": 2,
    "learning_rate": 0.01,
    "new_layer_multiplier": 10,
    "view_scale": 0.5,
}


def draw_collection(directory):
    """Sixteen training images and four for validation, 40 pixels wide; returns the folder as text."""
    return write_synthetic_collection(str(directory), images=20, size=40, classes=2).directory


def command_line(data, output, **flags):
    """Arguments of the training program."""
    values = {"data": data, "output": output, **FLAGS, **flags}
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def start(arguments, *, module="wsss.train", environment=None):
    """Starts a program in a process of its own; its output is read from `stdout`."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **(environment or {})},
    )


def finish(process, expected_code=0):
    """What a program wrote to stdout and stderr, once it has ended with the expected code."""
    written, errors = process.communicate(timeout=600)
    assert process.returncode == expected_code, errors
    return written, errors


def run(arguments, **options):
    """Starts a program and waits for it."""
    return finish(start(arguments, **options))


def weights(directory):
    """The weights of a finished run."""
    return keras.models.load_model(os.path.join(directory, "model.keras")).get_weights()


def assert_equal_weights(first, second, rtol=0.0, atol=0.0):
    """Compares the weights of two run directories, by default to the last bit."""
    pairs = list(zip(weights(first), weights(second), strict=True))
    assert pairs
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)
