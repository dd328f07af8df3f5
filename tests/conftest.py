"""What every test shares: where the data beside the project lies."""

import contextlib
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
SHARED = Path(os.environ.get("WSSS_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real photographs and weights; the test skips where it is missing."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no real photographs at {folder}; set WSSS_SHARED")
    return folder


def _split_cpu():
    """Two logical CPUs for the tests of replicas; TensorFlow allows it only before its first operation."""
    import tensorflow as tf

    cpus = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)


def pytest_collection_finish(session):
    """Split the CPU between collection and the first test, if a collected module has imported TensorFlow."""
    if "tensorflow" in sys.modules:
        with contextlib.suppress(RuntimeError):  # a module ran an operation while it was imported
            _split_cpu()


@pytest.fixture(scope="session")
def two_devices():
    """Names of two logical CPUs, for `tf.distribute.MirroredStrategy(two_devices)`."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):
        _split_cpu()
    devices = tf.config.list_logical_devices("CPU")
    if len(devices) < 2:
        pytest.skip("TensorFlow was started before its CPU could be split in two")
    return [device.name for device in devices[:2]]


@pytest.fixture(scope="session")
def two_replicas(two_devices):
    """One `MirroredStrategy` for all tests: TensorFlow mixes up the collectives of two in one process."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(two_devices)
