"""Gradient checkpointing: the numbers of plain training, with few activations kept."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers

from wsss.backbones.tiny import small_backbone
from wsss.models import SEAM, AffinityNet, CamClassifier, RescaledView
from wsss.models.affinity_net import affinity_feature
from wsss.models.deeplab import DeepLab
from wsss.training.building import compile_model, make_backbone, make_model
from wsss.training.checkpointing import CheckpointedNetwork
from wsss.training.device import DeviceSettings
from wsss.training.options import TrainingOptions

IMAGES = np.random.default_rng(0).uniform(size=(4, 48, 64, 3)).astype("float32")
TAGS = np.eye(4, 3, dtype="float32")
EAGER = {"run_eagerly": True}
needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's strategies"
)
MASKS = np.random.default_rng(1).integers(0, 4, (4, 48, 64))


def backbone():
    return small_backbone(width=8)


def classifier():
    """With moving statistics and random numbers, which a step writes."""
    image = x = keras.Input((None, None, 3))
    for channels in (8, 16, 32):
        x = layers.Conv2D(channels, 3, strides=2, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.5)(x))
    return CamClassifier(image, x, 3, dropout=0.3)


def seam():
    return SEAM.from_backbone(backbone(), 3, view=RescaledView(0.5), dropout=0.3, seed=1)


def affinity_net():
    made = backbone()
    return AffinityNet(made.input, affinity_feature(*([*made.stages.values()] * 3)[-3:]), radius=3)


def deeplab():
    return DeepLab.from_backbone(backbone(), 3, channels=16, dropout=0.3)


def trained(make, checkpointed, *, strategy=None, epochs=1, **compile_options):
    """Losses and all weights, states of random numbers among them, after two steps of each epoch."""
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = make()
        if checkpointed:
            model.training_network = CheckpointedNetwork(model.network)
            assert model.training_network.num_segments > 1
        of_tags = isinstance(model, CamClassifier)
        loss = "binary_crossentropy" if of_tags else None
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, **(compile_options or EAGER))
    targets = TAGS if of_tags else MASKS
    history = model.fit(IMAGES, targets, batch_size=2, epochs=epochs, shuffle=False, verbose=0)
    return history.history, model.get_weights()


def assert_same(one, other):
    for name, values in one[0].items():
        np.testing.assert_allclose(values, other[0][name], rtol=1e-4, err_msg=name)
    for mine, theirs in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [classifier, seam, affinity_net, deeplab])
def test_losses_weights_and_states_are_those_of_plain_training(make):
    assert_same(trained(make, False), trained(make, True))


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_compiled_step_is_the_same(jit_compile):
    plain, checkpointed = (
        trained(classifier, each, epochs=2, jit_compile=jit_compile) for each in (False, True)
    )
    assert_same(plain, checkpointed)


@pytest.mark.slow
@needs_tensorflow
def test_two_replicas_write_states_as_plain_training_does(two_replicas):
    plain, checkpointed = (
        trained(classifier, each, strategy=two_replicas, jit_compile=False) for each in (False, True)
    )
    assert_same(plain, checkpointed)


def test_mixed_precision_reads_weights_in_full():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        plain, checkpointed = trained(classifier, False), trained(classifier, True)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(plain[0]["loss"], checkpointed[0]["loss"], rtol=1e-2)


def test_a_loss_that_a_layer_adds_is_refused():
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, activity_regularizer="l2")(image)
    network = keras.Model(image, layers.Conv2D(4, 3)(x))
    with pytest.raises(ValueError, match="activity regularizers"):
        CheckpointedNetwork(network)(np.zeros((1, 32, 32, 3), "float32"))


def test_the_largest_tensors_are_not_kept_between_segments():
    """Convolutions that widen and narrow in turn: what is kept is narrow."""
    image = x = keras.Input((None, None, 3))
    for _ in range(9):
        x = layers.Conv2D(64, 1)(x)
        x = layers.Conv2D(2, 1)(x)
    network = CheckpointedNetwork(keras.Model(image, x))
    assert network.num_segments == 9
    assert all(x.shape[-1] == 2 for segment in network._segments for x in segment.outputs)


def test_the_flag_of_training_checkpoints_the_network():
    options = TrainingOptions(
        data="shards", backbone="small", backbone_weights="none", output_stride=8, gradient_checkpointing=True
    )
    made = make_backbone(options)
    model = make_model(options, 3, made)
    compile_model(model, options, DeviceSettings("cpu", "", "none", False, 1), made, total_steps=4)
    assert model.training_network.num_segments > 1
