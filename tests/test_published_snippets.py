"""The lines of the published interface, run as they are written."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import wsss
from wsss.pipeline.options import LabelOptions
from wsss.pipeline.summary import LabelResult
from wsss.training.options import TrainingOptions
from wsss.training.run_dir import RunDirectory

SEAM_SNIPPET = """
img_input = tf.keras.layers.Input((28, 28, 1))
x = tf.keras.layers.Conv2D(64, 3, padding="same")(img_input)
x = tf.keras.layers.BatchNormalization()(x)
x0 = tf.keras.layers.Activation("relu")(x)
x = tf.keras.layers.Conv2D(128, 3, padding="same")(x0)
seam = SEAM(img_input, x, classes=10, classification_activation="softmax")
seam.compile(tf.keras.optimizers.Adam(learning_rate=1e-4), loss=tf.keras.losses.categorical_crossentropy, metrics=['accuracy'])
seam.fit(X_train, y_train)
pred_y = seam.predict(X_test)
seam.save("./model.h5")
config = seam.get_config()
with open('config.json', 'w') as f:
    json.dump(config, f)
with open('config.json') as f:
    config = json.load(f)
seam = SEAM.load("./model.h5", **config)
"""  # noqa: E501

PIXEL2PROTOTYPE_SNIPPET = """
p2p = Pixel2Prototype(img_input, x, 10, project_feature=proj)
p2p.compile(tf.keras.optimizers.Adam(learning_rate=1e-4), loss=tf.keras.losses.binary_crossentropy, metrics=['accuracy'])
p2p.fit(X_train, y_train)
"""  # noqa: E501

AFFINE_SNIPPET = """
I = np.expand_dims(cv2.imread("./img.jpg").astype(np.float32) / 255, 0)   # [batch, height, width, channel]
affine = Affine()
code, args = affine.random_affine_code()
inv_args = affine.inverse_affine_code(code, args)
A_I = affine.apply_affine(I, code, args)
R_I = affine.apply_affine(I, code, inv_args)
"""

LABELS = LabelResult("labels", 1, 0, 0.5, 0.2, "", ())
# Of each program as a function: its options, and what a stand-in returns.
PROGRAMS = {
    "train_model": (TrainingOptions, RunDirectory("runs/seam")),
    "label_collection": (LabelOptions, LABELS),
    "relabel_collection": (LabelOptions, LABELS),
    "predict_masks": (LabelOptions, LABELS),
}
ROOT = Path(__file__).resolve().parents[1]
IMPORTS = """
from wsss import SEAM, Pixel2Prototype
from wsss.utils import Affine, nonlocal_neural_network
"""


def run(snippet, **names):
    """Runs the text; its imports are those of the issue, the arrays come from the test."""
    names = {"tf": tf, "np": np, "json": json, **names}
    exec(IMPORTS + snippet, names)
    return names


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tf.keras.utils.set_random_seed(0)


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize(
    "snippet", [SEAM_SNIPPET, PIXEL2PROTOTYPE_SNIPPET, AFFINE_SNIPPET, *IMPORTS.split("\n")]
)
def test_docs_show_the_published_lines_letter_by_letter(snippet):
    assert any(snippet in f"\n{block}" for block in python_blocks("docs/library.md"))


def one_hot_images(count, size, channels=3):
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(count, size, size, channels)).astype("float32")
    return images, np.eye(10, dtype="float32")[rng.integers(0, 10, count)]


@pytest.mark.slow
def test_seam_trains_predicts_and_comes_back_from_h5():
    images, labels = one_hot_images(6, 28, channels=1)
    names = run(SEAM_SNIPPET, X_train=images, y_train=labels, X_test=images)
    predicted = names["pred_y"]
    assert predicted.shape == labels.shape
    np.testing.assert_allclose(predicted.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(names["seam"].predict(images), predicted)


def pixel2prototype_network(size):
    img_input = tf.keras.layers.Input((size, size, 3))
    x = tf.keras.layers.Conv2D(64, 3, padding="same")(img_input)
    x = tf.keras.layers.BatchNormalization()(x)
    x0 = tf.keras.layers.Activation("relu")(x)
    x = tf.keras.layers.Conv2D(128, 3, padding="same")(x0)
    proj = tf.keras.layers.Conv2D(128, 1)(x)
    return {"img_input": img_input, "x": x, "proj": proj}


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 224])
def test_pixel2prototype_trains(size):
    images, labels = one_hot_images(2, size)
    names = run(PIXEL2PROTOTYPE_SNIPPET, X_train=images, y_train=labels, **pixel2prototype_network(size))
    history = names["p2p"].history.history
    assert all(np.isfinite(values).all() for values in history.values())


@pytest.mark.parametrize("seed", [0, 1, 3, 5])  # flip, rescale_aspect, rescale, translation
def test_one_affine_code_transforms_an_image_and_its_inverse_undoes_it(seed):
    """A smooth blob, off the center, that these four leave in the image."""
    cv2 = pytest.importorskip("cv2")
    tf.keras.utils.set_random_seed(seed)
    y, x = np.mgrid[:100, :120]
    blob = 200 * np.exp(-((y - 45) ** 2 + (x - 66) ** 2) / 200)
    cv2.imwrite("img.png", np.stack([blob, blob / 2, 0 * blob], axis=-1).astype(np.uint8))
    names = run(AFFINE_SNIPPET.replace("img.jpg", "img.png"), cv2=cv2)
    image, transformed = (np.asarray(names[name]) for name in ("I", "A_I"))
    assert np.abs(transformed - image).max() > 0.1
    restored = np.asarray(names["affine"].apply_affine(transformed, names["code"], names["inv_args"]))
    inside = np.s_[:, 25:65, 46:86]
    np.testing.assert_allclose(restored[inside], image[inside], atol=0.05)


def test_the_snippet_of_the_programs_passes_options_that_there_are(monkeypatch):
    (snippet,) = (block for block in python_blocks("docs/library.md") if "wsss.train_model" in block)
    called = []

    def stand_in(name):
        function, (options, result) = getattr(wsss, name), PROGRAMS[name]

        def record(*args, **values):
            named = set(inspect.signature(function).bind(*args, **values).arguments)
            assert set(values) - named <= {field.name for field in dataclasses.fields(options)}
            called.append(name)
            return result

        return record

    for name in PROGRAMS:
        monkeypatch.setattr(wsss, name, stand_in(name), raising=False)
    run(snippet)
    assert called == list(PROGRAMS)


@pytest.mark.slow
def test_the_snippet_of_the_readme_runs():
    (snippet,) = python_blocks("README.md")
    snippet = snippet.replace('"imagenet"', "None")  # without a download
    images = np.random.default_rng(0).uniform(size=(2, 64, 64, 3)).astype("float32")
    names = run(snippet, images=images, tags=np.array([[1, 0, 1], [0, 1, 0]], "float32"))
    assert names["cam"].shape == (2, 4, 4, 3)
    assert Path("seam.keras").exists()


def test_the_snippets_of_inference_and_refinement_run():
    names = pixel2prototype_network(None)
    Path("runs/seam").mkdir(parents=True)
    names = run('SEAM(img_input, x, 3).save("runs/seam/model.keras")', **names)
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(image).save("img.jpg")
    inference, refinement = python_blocks("docs/library.md")[3:]
    scores = run(inference)["scores"]
    assert scores.shape == (3, 20, 30)
    names = run(refinement, image=image, scores=np.moveaxis(scores, 0, -1))
    assert names["probabilities"].shape == (20, 30, 3)
