"""What every model that is trained keeps to: configuration, files, `fit` in all its forms."""

import json

import keras
import numpy as np
import pytest

from tests.models.networks import MODELS, images_and_labels, losses_of, tiny_model
from wsss.models.cam_classifier import CamClassifier
from wsss.models.pixel2prototype import Pixel2Prototype
from wsss.models.seam import SEAM

# In the fast lane SEAM with affine views, and its subclass with rescaled ones.
each_model = pytest.mark.parametrize(
    "kind", ["seam_affine", "pixel2prototype", pytest.param("seam_rescale", marks=pytest.mark.slow)]
)

# Every option, none at its default.
SEAM_OPTIONS = {
    "classification_activation": "linear",
    "fill_mode": "reflect",
    "ER_reg_coef": 0.5,
    "ECR_reg_coef": 0.25,
    "min_pooling_coef": 0.125,
    "epsilon": 1e-4,
    "use_inverse_affine": False,
    "min_pooling_rate": 0.5,
    "ECR_pooling_rate": 0.5,
    "affine_rotate": 0.25,
    "affine_rescale": 0.25,
    "affine_flip": 0.0,
    "affine_translation": 0.5,
    "view": "rescale",
    "view_scale": 0.5,
    "view_size": (8, 6),
    "dropout": 0.25,
    "cam_background": True,
    "max_correlation_positions": 20,
    "seed": 7,
    "score_offset": [-2.0, 0.5, 1.0],
}
PIXEL2PROTOTYPE_OPTIONS = {
    "prototype_confidence_rate": 0.25,
    "nce_tau": 0.5,
    "cp_contrast_coef": 0.2,
    "cc_contrast_coef": 0.3,
    "intra_contrast_coef": 0.4,
    "background_threshold": 0.3,
    "hard_prototype_range": (0.25, 0.75),
    "hard_pixel_range": (0.25, 0.5),
    "contrast_grid": (5, 3),
    "contrast_variant": "repaired",
}
# What makes a training step the same each time: every view mirrored, no pixels drawn.
WITHOUT_CHANCE = {
    "seam_affine": {"affine_rescale": 0.0, "affine_flip": 1.0},
    "pixel2prototype": {"intra_contrast_coef": 0.0},
}


def options_of(kind):
    return {**SEAM_OPTIONS, **(PIXEL2PROTOTYPE_OPTIONS if kind == "pixel2prototype" else {})}


@each_model
def test_every_option_survives_json(kind):
    options = options_of(kind)
    model = tiny_model(kind, name="mine", **options)
    config = json.loads(json.dumps(model.get_config()))
    before = json.dumps(config)
    again = type(model).from_config(config)
    assert json.dumps(config) == before  # the caller's dictionary is left alone
    for name, value in {**options, "name": "mine"}.items():
        received = again.get_config()[name]
        assert (tuple(received) if isinstance(value, tuple) else received) == value, name
    assert set(again.get_config()) == set(config)


def test_options_of_the_constructors_are_all_in_the_config():
    import inspect

    for model_class, kind in ((SEAM, "seam_affine"), (Pixel2Prototype, "pixel2prototype")):
        classes = {model_class, SEAM, CamClassifier}
        arguments = {name for each in classes for name in inspect.signature(each).parameters}
        tensors = {"image_input", "feature_output", "correlation_feature", "project_feature"}
        internal = {"network", "extra_heads", "upsample_scores", "kwargs"}
        assert arguments - tensors - internal <= set(tiny_model(kind).get_config())
        assert options_of(kind).keys() >= arguments - tensors - internal - {"name", "classes"}


@each_model
def test_saved_model_is_equal_and_trains_on_alike(kind, tmp_path):
    images, labels = images_and_labels()
    model = tiny_model(kind)
    model.fit(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is type(model)
    for part in ("classifier", "cam", "refined_cam"):
        expected, actual = (getattr(m, part).predict_on_batch(images) for m in (model, again))
        np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(again.predict_on_batch(images), model.predict_on_batch(images))
    if kind == "seam_rescale":  # no random numbers: the momentum came along too
        one, other = (losses_of(m.fit(images, labels, verbose=0, epochs=2)) for m in (model, again))
        assert one == other


@each_model
def test_legacy_weights_and_config_give_the_model_back(kind, tmp_path):
    images, _ = images_and_labels()
    model = tiny_model(kind)
    model.save(str(tmp_path / "model.h5"))
    config = json.loads(json.dumps(model.get_config()))
    again = type(model).load(str(tmp_path / "model.h5"), **config)
    for part in ("classifier", "cam", "refined_cam"):
        expected, actual = (getattr(m, part).predict_on_batch(images) for m in (model, again))
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "seam_rescale" else pytest.param(kind, marks=pytest.mark.slow) for kind in MODELS],
)
def test_fit_takes_datasets_validation_and_callbacks(kind, tmp_path):
    tf = pytest.importorskip("tensorflow", reason="tf.data needs TensorFlow, if not as the backend")
    images, labels = images_and_labels()
    model = tiny_model(kind)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(2)
    stopper = keras.callbacks.EarlyStopping("val_loss", patience=5, restore_best_weights=True)
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
    history = model.fit(
        dataset, epochs=2, validation_data=dataset, callbacks=[stopper, checkpoint], shuffle=False, verbose=0
    )
    logs = losses_of(history)
    assert {"loss", "accuracy", "val_loss", "val_accuracy", *model.loss_terms} <= set(logs)
    assert all(np.isfinite(value) for value in logs.values())
    assert keras.models.load_model(tmp_path / "best.keras").predict_on_batch(images).shape == labels.shape
    evaluated = model.evaluate(dataset, verbose=0, return_dict=True)
    assert set(evaluated) == {"loss", "accuracy", "classification_loss"}
    assert evaluated == model.evaluate(dataset, verbose=0, return_dict=True)  # nothing random in it
    assert len(model.evaluate(dataset, verbose=0)) == 3


@each_model
def test_loss_is_the_sum_of_its_terms(kind):
    images, labels = images_and_labels()
    logs = losses_of(tiny_model(kind).fit(images, labels, verbose=0))
    terms = [value for name, value in logs.items() if name.endswith("_loss")]
    assert logs["loss"] == pytest.approx(sum(terms), rel=1e-5)
    assert len(terms) == (7 if kind == "pixel2prototype" else 4)
    assert all(value > 0 for value in terms)


@pytest.mark.slow
@each_model
@pytest.mark.parametrize(
    "jit_compile",
    [False, pytest.param(True, marks=pytest.mark.backends("tensorflow", "jax", reason="XLA"))],
)
def test_graph_and_compiler_give_the_eager_losses(kind, jit_compile):
    images, labels = images_and_labels()
    options = WITHOUT_CHANCE.get(kind, {})  # the compiler draws other numbers from the same seed
    eager = tiny_model(kind, run_eagerly=True, jit_compile=False, **options)
    expected = losses_of(eager.fit(images, labels, epochs=2, verbose=0))
    model = tiny_model(kind, run_eagerly=False, jit_compile=jit_compile, **options)
    assert losses_of(model.fit(images, labels, epochs=2, verbose=0)) == pytest.approx(expected, rel=2e-4)


@each_model
def test_images_of_any_size_go_through(kind):
    model = tiny_model(kind)
    for height, width in ((12, 14), (17, 9), (5, 6)):
        images, labels = images_and_labels(2, height, width)
        assert all(np.isfinite(model.train_on_batch(images, labels)))
        assert model.predict_on_batch(images).shape == labels.shape
        rows, columns = -(-height // 2), -(-width // 2)
        assert model.refined_cam.predict_on_batch(images).shape == (2, rows, columns, labels.shape[1])


@pytest.mark.slow
@each_model
@pytest.mark.backends("tensorflow", reason="tracing a graph for batches of unknown shape")
def test_batches_of_unknown_shape_go_through(kind):
    import tensorflow as tf

    images, labels = images_and_labels()
    signature = (tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None, 3)))
    dataset = tf.data.Dataset.from_generator(lambda: [(images, labels)], output_signature=signature).repeat()
    expected = losses_of(tiny_model(kind).fit(images, labels, shuffle=False, verbose=0))
    model = tiny_model(kind, run_eagerly=False)
    assert losses_of(model.fit(dataset, steps_per_epoch=1, shuffle=False, verbose=0)) == pytest.approx(
        expected, rel=1e-4
    )


@each_model
def test_images_of_weight_zero_count_for_nothing(kind):
    if kind == "pixel2prototype":
        pytest.skip("contrast compares pixels of the whole batch")
    images, labels = images_and_labels(4)
    weights = np.float32([1, 1, 0, 0])
    first, doubled = (
        losses_of(fitted)
        for fitted in (
            tiny_model(kind).fit(images, labels, sample_weight=weights, verbose=0, shuffle=False),
            tiny_model(kind).fit(images, labels, sample_weight=2 * weights, verbose=0, shuffle=False),
        )
    )
    images[2:] = 1 - images[2:]
    other = losses_of(tiny_model(kind).fit(images, labels, sample_weight=weights, verbose=0, shuffle=False))
    for name in ("loss", "er_loss", "ecr_loss", "min_pooling_loss", "classification_loss"):
        assert other[name] == pytest.approx(first[name], rel=1e-4), name
        assert doubled[name] == pytest.approx(2 * first[name], rel=1e-4), name


@each_model
@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [("mixed_float16", 0.03), pytest.param("mixed_bfloat16", 0.1, marks=pytest.mark.slow)],
)
def test_half_precision_trains(kind, policy, tolerance, tmp_path):
    images, labels = images_and_labels()
    expected = losses_of(tiny_model(kind).fit(images, labels, verbose=0))
    keras.config.set_dtype_policy(policy)
    try:
        model = tiny_model(kind)
        loss_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert loss_scaled == (policy == "mixed_float16")
        logs = losses_of(model.fit(images, labels, verbose=0))
        assert keras.backend.standardize_dtype(model(images).dtype) == "float32"
        model.save(tmp_path / "model.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    assert logs == pytest.approx(expected, rel=tolerance, abs=tolerance / 10)
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict_on_batch(images), model.predict_on_batch(images))


@pytest.mark.slow
@pytest.mark.backends("tensorflow", reason="tf.distribute")
@pytest.mark.parametrize("kind", ["seam_rescale", "pixel2prototype"])
def test_two_replicas_train_as_one(kind, two_replicas):
    images, labels = images_and_labels(4)
    options = WITHOUT_CHANCE.get(kind, {})

    def trained(model):
        logs = losses_of(model.fit(images, labels, batch_size=4, epochs=2, shuffle=False, verbose=0))
        return logs, model.get_weights()

    one_logs, one_weights = trained(tiny_model(kind, **options))
    with two_replicas.scope():
        model = tiny_model(kind, run_eagerly=False, **options)
    two_logs, two_weights = trained(model)
    assert two_logs == pytest.approx(one_logs, rel=1e-4)
    for two, one in zip(two_weights, one_weights, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5)
