"""AffinityNet: the recorded network, its training, and what the random walk gets from it."""

import json

import keras
import numpy as np
import pytest

from tests.golden import assert_close, golden_cases, golden_file
from tests.models.formula_weights import formula_tensors, read_names, salt_of
from tests.models.pair_networks import assert_two_replicas_train_as_one, bright_images
from wsss.models.affinity_net import AffinityNet, affinity_feature
from wsss.models.pair_model import sample_labels
from wsss.ops.affinity import feature_affinity, pair_offsets
from wsss.weights.mapping import load_tensors
from wsss.weights.published import published_affinity

SIDE = 16


def values(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.fixture(scope="module")
def published_network():
    model, filled_with = published_affinity(normalize=False), [None]

    def filled(case):
        if filled_with != [salt_of(case)]:
            shapes = read_names(golden_file("c_names_resnet38_aff.txt"))
            assert not load_tensors(model, formula_tensors(shapes, salt_of(case)))
            filled_with[:] = [salt_of(case)]
        return model

    return filled


@pytest.mark.slow
@golden_cases("c_aff_net")
def test_recorded_network_gives_the_recorded_affinities(case, published_network):
    model = published_network(case)
    feature = model.network(case.channels_last("x"))
    assert_close(np.moveaxis(values(feature), -1, 1), case["feature"], rtol=3e-5)
    side = min(feature.shape[1:3])
    radius = 5 if side > 10 else (side - 1) // 2  # the authors' code has a smaller one on small maps
    pairs = values(feature_affinity(feature, radius))[0]
    assert_close(pairs.reshape(-1, pairs.shape[-1]).T[None], case["aff"], rtol=3e-5)
    assert_close(dense_affinity(pairs, feature.shape[1:3], radius), case["aff_dense"], rtol=3e-5)
    if radius == model.radius:  # the published code leaves out pairs near the border, the walk's affinity not
        sparse = values(model.affinity(case.channels_last("x")))[0]
        assert_close(sparse[: 1 - radius, radius - 1 : 1 - radius], pairs, rtol=1e-6)


def dense_affinity(pairs, size, radius):
    """Symmetric matrix of all positions from the pairs, 1 on the diagonal."""
    height, width = size
    dense = np.eye(height * width, dtype="float32")
    for row in range(pairs.shape[0]):
        for column in range(pairs.shape[1]):
            start = row * width + column + radius - 1
            for (dy, dx), value in zip(pair_offsets(radius), pairs[row, column], strict=True):
                to = start + dy * width + dx
                dense[start, to] = dense[to, start] = value
    return dense


def small_model(**options):
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    low = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(image)
    high = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="body")(low)
    return AffinityNet(image, affinity_feature(low, low, high, channels=(4, 4, 8)), radius=3, **options)


def two_squares(count=8):
    """Images of a bright square on a dark ground, with their label maps."""
    labels = np.zeros((count, SIDE, SIDE), "int32")
    labels[:, 4:12, 4:12] = 1
    labels[:, 0] = 255
    return bright_images(labels), labels


@pytest.fixture(scope="module")
def trained():
    model = small_model()
    model.compile(keras.optimizers.Adam(0.01))
    history = model.fit(*two_squares(), batch_size=4, epochs=12, verbose=0)
    return model, history.history


def test_training_lowers_the_loss_and_records_its_terms(trained):
    _, history = trained
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    weighted = [
        background / 4 + foreground / 4 + negative / 2
        for background, foreground, negative in zip(
            history["background_loss"], history["foreground_loss"], history["negative_loss"], strict=True
        )
    ]
    np.testing.assert_allclose(weighted, history["loss"], rtol=1e-4)


def test_learned_affinity_is_high_inside_and_low_across_the_edge(trained):
    model, _ = trained
    images, _ = two_squares(1)
    affinity = values(model.affinity(images))[0]  # (8, 8, offsets); the square is rows and columns 2..5
    right = pair_offsets(3).index((0, 1))
    assert affinity[3, 3, right] > affinity[3, 1, right] + 0.1


def test_affinity_beyond_the_border_is_zero(trained):
    model, _ = trained
    affinity = values(model.affinity(two_squares(1)[0]))[0]
    for (dy, dx), at_offset in zip(pair_offsets(3), np.moveaxis(affinity, -1, 0), strict=True):
        inside = np.zeros((8, 8), bool)
        inside[: 8 - dy, max(0, -dx) : 8 - max(0, dx)] = True
        assert (at_offset[inside] > 0).all()
        assert (at_offset[~inside] == 0).all()


def test_saved_model_is_the_same_model(trained, tmp_path):
    model, _ = trained
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    images, labels = two_squares(2)
    np.testing.assert_array_equal(values(again.affinity(images)), values(model.affinity(images)))
    assert again.evaluate(images, labels, verbose=0) == pytest.approx(
        model.evaluate(images, labels, verbose=0)
    )


def test_configuration_survives_json():
    model = small_model()
    config = json.loads(json.dumps(model.get_config()))
    again = AffinityNet.from_config(config)
    assert again.radius == 3
    assert again.count_params() == model.count_params()


def test_unknown_pixels_do_not_count(trained):
    model, _ = trained
    images, labels = two_squares(2)
    hidden = np.full_like(labels, 255)
    assert model.evaluate(images, hidden, verbose=0, return_dict=True)["loss"] == 0


@pytest.mark.slow
@pytest.mark.backends("tensorflow", reason="tf.distribute")
def test_two_replicas_equal_one(two_replicas):
    images, labels = two_squares(4)
    labels[2:, :, 8:] = 255  # the replicas know different numbers of pairs
    assert_two_replicas_train_as_one(small_model, images, labels, 0.1, two_replicas)


@pytest.mark.slow
@pytest.mark.backends("tensorflow", "jax", reason="XLA")
def test_compiled_training_equals_the_eager_one():
    results = []
    for options in ({"run_eagerly": True}, {"jit_compile": True}):
        model = small_model()
        model.compile(keras.optimizers.SGD(0.1), **options)
        history = model.fit(*two_squares(2), epochs=3, verbose=0)
        results.append((history.history["loss"], model.get_weights()))
    (eager_losses, eager_weights), (losses, weights) = results
    np.testing.assert_allclose(losses, eager_losses, rtol=1e-5)
    for one, other in zip(weights, eager_weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_sample_weights_are_refused():
    model = small_model()
    model.compile(keras.optimizers.SGD(0.1))
    images, labels = two_squares(2)
    with pytest.raises(ValueError, match="set pixels that do not count to 255"):
        model.fit(images, labels, sample_weight=np.ones(2), verbose=0)


def test_labels_are_taken_at_the_centre_of_each_cell():
    labels = np.arange(6)[None, None] + np.zeros((1, 2, 1), int)
    np.testing.assert_array_equal(values(sample_labels(labels, (2, 3)))[0, 0], [1, 3, 5])
    np.testing.assert_array_equal(values(sample_labels(labels[..., None], (1, 2)))[0, 0], [1, 4])


def test_too_small_a_radius_is_refused():
    image = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match="`radius` must be an integer, 2 or more"):
        AffinityNet(image, image, radius=1)


def test_images_without_a_pair_are_refused():
    model = small_model()
    model.compile(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="at least 5 positions"):
        model.fit(np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8)), verbose=0)
