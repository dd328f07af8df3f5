"""Files of models that depend on the model alone."""

import json
import re
import zipfile

import keras
import numpy as np

from wsss.common.keras_file import save_model


def make_model():
    """A model whose layers share an object, which Keras numbers by its address."""
    keras.utils.clear_session()
    regularizer = keras.regularizers.L2(0.1)
    layers = [keras.layers.Dense(2, kernel_regularizer=regularizer, kernel_initializer="ones") for _ in "ab"]
    return keras.Sequential([keras.Input((3,)), *layers])


def test_the_same_model_gives_the_same_bytes_and_loads(tmp_path):
    first, second = make_model(), make_model()
    save_model(first, str(tmp_path / "first.keras"))
    save_model(second, str(tmp_path / "new" / "second.keras"))
    assert (tmp_path / "first.keras").read_bytes() == (tmp_path / "new" / "second.keras").read_bytes()
    loaded = keras.models.load_model(tmp_path / "first.keras")
    images = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), first.predict(images, verbose=0))


def test_a_file_holds_neither_addresses_nor_the_time(tmp_path):
    save_model(make_model(), str(tmp_path / "model.keras"))
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = archive.read("config.json").decode()
        assert "date_saved" not in json.loads(archive.read("metadata.json"))
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
    assert re.findall('"shared_object_id": ([0-9]+)', config)[:2] == ["1", "1"]


def test_another_model_gives_other_bytes(tmp_path):
    first, second = make_model(), make_model()
    second.layers[0].bias.assign([0.0, 1.0])
    save_model(first, str(tmp_path / "first.keras"))
    save_model(second, str(tmp_path / "second.keras"))
    assert (tmp_path / "first.keras").read_bytes() != (tmp_path / "second.keras").read_bytes()
