"""IRNet: its training on any backbone, and the edges that it gives."""

import keras
import numpy as np
import pytest

from tests.models.pair_networks import assert_two_replicas_train_as_one, bright_images
from wsss.backbones.resnet import torchvision_backbone
from wsss.backbones.tiny import small_backbone
from wsss.models.irn import IRNet
from wsss.ops.affinity import affinity_loss, displacement_loss, pair_labels, path_affinity, path_offsets

SIDE = 64
RADIUS = 4


def values(tensor):
    return keras.ops.convert_to_numpy(tensor)


def small_model():
    keras.utils.set_random_seed(0)
    return IRNet(small_backbone(8, width=8), RADIUS)


def squares(count=8):
    """Images of a bright square on a dark ground, each elsewhere, with their label maps."""
    generator = np.random.default_rng(0)
    labels = np.zeros((count, SIDE, SIDE), "int32")
    for label, (top, left) in zip(labels, generator.integers(4, 28, (count, 2))):
        label[top : top + 32, left : left + 32] = 1
    return bright_images(labels), labels


@pytest.fixture(scope="module")
def trained():
    model = small_model()
    model.compile(keras.optimizers.Adam(0.01))
    history = model.fit(*squares(), batch_size=4, epochs=25, verbose=0)
    return model, history.history


def test_training_lowers_the_loss_and_leaves_the_backbone_alone(trained):
    model, history = trained
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert all(variable.path.startswith("fc_") for variable in model.trainable_variables)
    for name, before, after in zip(
        [variable.path for variable in model.variables], small_model().get_weights(), model.get_weights()
    ):
        if name.startswith("stage"):
            np.testing.assert_array_equal(before, after, err_msg=name)


def test_edges_are_stronger_on_the_border_than_inside(trained):
    model, _ = trained
    images, labels = squares()
    edges = values(model.edge(images))[..., 0]
    assert edges.shape == (8, SIDE // 4, SIDE // 4)
    cells = labels.reshape(8, SIDE // 4, 4, SIDE // 4, 4).mean((2, 4))
    inside = np.zeros_like(cells, bool)
    inside[:, 1:-1, 1:-1] = cells[:, 1:-1, 1:-1] == 1
    for axis in (1, 2):
        for shift in (-1, 1):
            inside &= np.roll(cells, shift, axis) == 1
    border = (cells > 0) & ~inside
    assert edges[border].mean() > edges[inside].mean() + 0.1


def test_edges_of_the_mirror_are_the_mirror_of_the_edges(trained):
    model, _ = trained
    images, _ = squares(2)
    np.testing.assert_allclose(
        values(model.edge(images[:, :, ::-1])), values(model.edge(images))[:, :, ::-1], rtol=0, atol=1e-5
    )


def test_loss_is_the_published_sum_of_its_terms():
    model = small_model()
    model.compile(keras.optimizers.SGD(0.0))
    images, labels = squares(2)
    labels[0, :, 40:] = 255
    metrics = model.evaluate(images, labels, verbose=0, return_dict=True)
    outputs = model(images)
    offsets = path_offsets(RADIUS)
    pairs = pair_labels(labels[:, 2::4, 2::4], offsets)
    affinity = affinity_loss(path_affinity(keras.ops.sigmoid(outputs["edge"]), RADIUS), pairs)
    displacement = displacement_loss(outputs["displacement"], pairs, offsets)
    for name, expected in zip(model.LOSS_TERMS, (*affinity, *displacement), strict=True):
        assert metrics[name] == pytest.approx(float(values(expected)), rel=1e-5), name
    total = float(values(affinity.total + displacement.total))
    assert metrics["loss"] == pytest.approx(total, rel=1e-5)


def test_saved_model_is_the_same_model(trained, tmp_path):
    model, _ = trained
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    images, _ = squares(2)
    np.testing.assert_array_equal(values(again.edge(images)), values(model.edge(images)))
    assert again.radius == RADIUS
    assert len(again.trainable_variables) == len(model.trainable_variables)


@pytest.mark.slow
@pytest.mark.backends("tensorflow", reason="tf.distribute")
def test_two_replicas_equal_one(two_replicas):
    images, labels = squares(4)
    labels[2:, :, 32:] = 255  # the replicas know different numbers of pairs
    assert_two_replicas_train_as_one(small_model, images, labels, 0.01, two_replicas)


def test_a_stem_has_branches_of_its_own():
    model = IRNet(torchvision_backbone(50, 16, width=0.1))
    assert {"fc_edge1-0", "fc_dp1-0"} <= {layer.name for layer in model.network.layers}


def test_a_backbone_without_fine_stages_is_refused():
    with pytest.raises(ValueError, match="a stage at stride 4 and one at stride 8"):
        IRNet(small_backbone(4))
