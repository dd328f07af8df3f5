"""Trained models come from files whole, once a process, or with one line that says what is wrong."""

import threading
import zipfile

import keras
import numpy as np
import pytest

from wsss.common.errors import UserError
from wsss.inference import loading
from wsss.inference.loading import load_model


@pytest.fixture
def saved(tmp_path):
    """A `.keras` file of a small model."""
    path = tmp_path / "model.keras"
    keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(999)]).save(path)
    return path


def test_a_file_and_its_run_directory_load_the_same_weights(saved):
    from_file, from_folder = load_model(saved), load_model(saved.parent)
    for one, other in zip(from_file.get_weights(), from_folder.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_missing_file_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match="no model at"):
        load_model(tmp_path / "model.keras")


def test_a_file_that_is_no_archive_or_damaged_is_a_users_mistake(saved):
    damaged = bytearray(saved.read_bytes())
    damaged[len(damaged) // 2] ^= 255  # among the weights
    for content in (b"not a zip file", damaged, damaged[: len(damaged) // 2]):
        saved.write_bytes(content)
        with pytest.raises(UserError, match="not a whole"):
            load_model(saved)


def test_an_archive_without_a_configuration_is_no_model(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README", "no model")
    with pytest.raises(UserError, match="no trained model"):
        load_model(path)


def test_an_archive_without_weights_is_no_model(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "whole.keras")
    with zipfile.ZipFile(tmp_path / "whole.keras") as whole, zipfile.ZipFile(path, "w") as archive:
        for name in set(whole.namelist()) - {"model.weights.h5"}:
            archive.writestr(name, whole.read(name))
    with pytest.raises(UserError, match=r"Expected a model\.weights\.h5") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused_unread(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(loading._SMALL + 1))
    with pytest.raises(UserError, match="unpacks to") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_custom_layer_is_named_with_the_module_to_import(tmp_path):
    class Unheard(keras.layers.Layer):
        def call(self, x):
            return x

    Unheard.__module__ = "somebody.networks"
    path = tmp_path / "model.keras"
    keras.Sequential([keras.layers.Input((4,)), Unheard()]).save(path)
    with pytest.raises(UserError, match=r"`import somebody\.networks`") as caught:
        load_model(path)
    assert "Unheard" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_threads_build_one_object_and_share_it():
    built, barrier = [], threading.Barrier(4)
    cache, results = loading._LatestOnly(), []

    def build():
        built.append(object())
        threads_waiting.wait(timeout=60)
        return built[-1]

    threads_waiting = threading.Event()

    def ask():
        barrier.wait(timeout=60)
        results.append(cache.get("key", build))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    threads_waiting.set()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert results == built * 4
    assert cache.get("other", object) is not built[0]


def test_importing_the_package_is_light_and_gives_its_names():
    import wsss.inference

    assert {"CamPredictor", "load_model"} <= set(wsss.inference.__all__)
    assert all(getattr(wsss.inference, name) for name in wsss.inference.__all__)
    with pytest.raises(AttributeError, match="no attribute"):
        wsss.inference.nothing  # noqa: B018
