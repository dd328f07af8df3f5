"""Markers and fixtures of all tests: data beside the project, and the backends of Keras that are needed."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as `wsss.train`, also for what trains in this process
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")  # on a card JAX would multiply in TF32
SHARED = Path(os.environ.get("WSSS_SHARED", Path(__file__).resolve().parents[2] / "shared"))


NUMERICS = {"ops", "layers", "models"}  # rooms of Keras code, whose tests also hold on a card


def pytest_collection_modifyitems(items):
    """Marks the numerics, for `KERAS_BACKEND=jax python -m pytest -m gpu` on a machine with a card."""
    for item in items:
        if item.path.parent.name in NUMERICS and item.path.parents[1] == Path(__file__).parent:
            item.add_marker(pytest.mark.gpu)


@pytest.hookimpl(tryfirst=True)  # before any fixture makes what the backend cannot use
def pytest_runtest_setup(item):
    """Skips `@pytest.mark.backends("tensorflow", reason="tf.data")` tests under the other backends."""
    marker = item.get_closest_marker("backends")
    if marker:
        import keras

        if keras.backend.backend() not in marker.args:
            pytest.skip(f"{marker.kwargs['reason']} needs the backend {' or '.join(marker.args)}")


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real photographs and weights; the test skips where it is missing."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no real photographs at {folder}; set WSSS_SHARED")
    return folder


@pytest.fixture(scope="session")
def torch():
    """PyTorch, which CI leaves out: its wheels with CUDA are gigabytes."""
    return pytest.importorskip("torch", reason="needs PyTorch: pip install '.[torch]' (not part of CI)")


def _split_cpu():
    """Two logical CPUs for the tests of replicas; TensorFlow allows it only before its first operation."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if tf.config.get_logical_device_configuration(cpu) is None:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def pytest_collection_finish(session):
    """Split the CPU between collection and the first test; no module may run an operation while imported."""
    if "tensorflow" in sys.modules:
        _split_cpu()


@pytest.fixture(scope="session")
def two_devices():
    """Names of two logical CPUs, for `tf.distribute.MirroredStrategy(two_devices)`."""
    import tensorflow as tf

    _split_cpu()
    return [device.name for device in tf.config.list_logical_devices("CPU")[:2]]


@pytest.fixture(scope="session")
def two_replicas(two_devices):
    """One `MirroredStrategy` for all tests: TensorFlow mixes up the collectives of two in one process."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(two_devices)
