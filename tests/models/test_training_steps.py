"""Recorded training steps of SEAM and Pixel-to-Prototype Contrast, the latter on two replicas too.

The recordings train by SGD with the released code's momentum (5e-4), weight decay on kernels and ten times
the learning rate for new layers; the first stages and every batch normalization are frozen, and dropout is
off.
"""

import contextlib
import gc
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

from tests.golden import assert_close, golden_cases, golden_file
from tests.gradients import loss_gradients
from tests.models.formula_weights import formula_tensors, read_names, salt_of
from wsss.backbones.base import freeze
from wsss.backbones.resnet38 import FROZEN_STAGES
from wsss.ops.contrast import class_scores, pseudo_labels
from wsss.ops.resize import resize_bilinear
from wsss.optimizers import GroupedSGD, PolynomialSchedule, layer_groups
from wsss.training.presets import preset
from wsss.weights.mapping import load_tensors, published_tensors, published_variables
from wsss.weights.published import build_network

pytestmark = pytest.mark.slow
NEW_LAYERS = ("cam_head", "correlation_low", "correlation_high", "correlation_embedding", "projection")
STEP_TOLERANCE = (1e-5, 5e-5, 1e-4)  # of the losses at each step


@pytest.fixture(autouse=True)
def freed_memory():
    """Each test holds gigabytes: weights, momenta and gradients of 100 million parameters, twice."""
    yield
    keras.backend.clear_session()
    gc.collect()


class Recording(NamedTuple):
    """One step of our own."""

    losses: dict
    gradient_norms: dict | None
    pseudo_labels: tuple | None


class Run(NamedTuple):
    """A trained model and what was recorded on the way."""

    model: Any
    steps: list


def train(case, network, names_file, replicas):
    """Trains the recorded steps by `Model.fit`; without `replicas` records gradients and labels as well.

    `replicas` is a strategy of `tf.distribute`, or None for one replica on any backend.
    """
    published = preset(f"{network}_published")
    with replicas.scope() if replicas else contextlib.nullcontext():
        model = build_network(network, 20, classification_activation="linear", normalize=False, dropout=False)
        freeze(model.network, batch_norm=True, prefixes=FROZEN_STAGES)
        sampled = [keras.Variable(np.zeros(512, bool), dtype="bool", trainable=False) for _ in range(2)]
        schedule = PolynomialSchedule(float(case["base_lr"]), int(case["max_step"]), published.schedule_power)
        model.compile(
            GroupedSGD(
                schedule,
                momentum=published.momentum,
                weight_decay=published.weight_decay,
                groups=layer_groups(NEW_LAYERS),
            ),
            loss=keras.losses.BinaryCrossentropy(from_logits=True),
        )
    assert not load_tensors(model, formula_tensors(read_names(names_file), salt_of(case)))
    if network == "pixel2prototype":
        model.injected_pixels = sampled  # tracked by the model: what it reads is state, also under JAX
        model.sampled_pixels = lambda: tuple(variable.value for variable in sampled)
    steps = []
    for step, (images, labels) in enumerate(zip(case["images"], case["label20"], strict=True)):
        images = np.moveaxis(images, 1, -1)
        if network == "pixel2prototype":
            for number, variable in enumerate(sampled, start=1):
                variable.assign(recorded_sample(case, number, step))
        gradient_norms = norms_of_gradients(model, images, labels) if not replicas and step == 0 else None
        contrast = not replicas and network == "pixel2prototype"
        labels_of_pixels = labels_of_views(model, images, labels) if contrast else None
        history = model.fit(images, labels, batch_size=len(images), epochs=1, shuffle=False, verbose=0)
        losses = {name: values[0] for name, values in history.history.items()}
        steps.append(Recording(losses, gradient_norms, labels_of_pixels))
    return Run(model, steps)


def recorded_sample(case, number, step):
    """The pixels drawn for the intra-view term: bool, over all pixels of the batch."""
    label_map = case[f"pseudo_label{number}_step{step}"]
    sampled = np.zeros(label_map.shape, bool)
    start, index = case[f"sample_ptr{number}_step{step}"], case[f"sample_index{number}_step{step}"]
    for i, label in enumerate(case[f"sample_classes{number}_step{step}"]):
        sampled[np.flatnonzero(label_map == label)[index[start[i] : start[i + 1]]]] = True
    return sampled


def norms_of_gradients(model, images, labels):
    gradients = loss_gradients(model, images, labels)
    of_variable = {id(v): gradient for v, gradient in zip(model.trainable_variables, gradients, strict=True)}
    return {
        name: recorded_norm(of_variable[id(variable)])
        for name, variable in published_variables(model).items()
        if id(variable) in of_variable
    }


def recorded_norm(gradient):
    """The L2 norm as it was recorded: summed by PyTorch in float32, eight running sums side by side.

    These lose small squares among millions: the gradient of b7.conv_branch2b2 has the norm 3.70362, and
    3.70152 was recorded. NumPy, too, adds row after row to running sums along the first axis.

    Args:
        gradient: float32 (height, width, in, out), of a convolution; PyTorch has (out, in, height, width).
    """
    squares = np.square(gradient.transpose(3, 2, 0, 1).ravel())
    squares = np.pad(squares, (0, -squares.size % 8)).reshape(-1, 8)
    return np.sqrt(np.add.reduce(squares, axis=0).sum())


def labels_of_views(model, images, labels):
    second = resize_bilinear(keras.ops.convert_to_tensor(images), model.view_size, align_corners=True)
    maps = [model.network(view)["refined_cam"][..., 1:] for view in (images, second)]
    return tuple(
        keras.ops.convert_to_numpy(pseudo_labels(class_scores(cam, model.background_threshold), labels))
        for cam in maps
    )


def compare(case, run, terms):
    recorded_names = [str(name) for name in case["loss_names"]]
    for key in ("losses", "losses_f64"):
        for step, (recorded, tolerance) in enumerate(zip(case[key], STEP_TOLERANCE)):
            recorded = dict(zip(recorded_names, recorded))
            for name, expected in terms(recorded).items():
                error = abs(run.steps[step].losses[name] - expected)
                assert error <= tolerance * max(1, abs(expected)), (key, step, name, error)
    names = [str(name) for name in case["check_params"]]
    tensors = published_tensors(run.model)
    norms = run.steps[0].gradient_norms
    if norms is not None:
        for name, expected in zip(names, case["grad_l2_step0"], strict=True):
            assert norms.get(name, 0.0) == pytest.approx(expected, rel=1e-4), name
    for name, expected in zip(names, case["final_sum_norm_first8"], strict=True):
        flat = tensors[name].ravel().astype("float64")
        np.testing.assert_allclose(np.sqrt((flat**2).sum()), expected[1], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(flat[:8], expected[2:], rtol=0, atol=2e-5, err_msg=name)
        # A sum of n numbers, each within float32's rounding of the recorded ones.
        assert_close(flat.sum(), expected[0], atol=1e-5 * expected[1] * np.sqrt(flat.size) + 1e-3)
    last_rate = PolynomialSchedule(float(case["base_lr"]), int(case["max_step"]))(len(run.steps) - 1)
    assert_close(float(last_rate) * np.array([1, 2, 10, 20]), case["lr_groups_last"], rtol=1e-6)


def seam_terms(recorded):
    """Our terms from theirs: they add the min-pooling losses to the classification."""
    return {
        "loss": recorded["loss"],
        "classification_loss": (recorded["loss_cls1"] + recorded["loss_cls2"]) / 2,
        "min_pooling_loss": (recorded["loss_rvmin1"] + recorded["loss_rvmin2"]) / 2,
        "er_loss": recorded["loss_er"],
        "ecr_loss": recorded["loss_ecr"],
    }


def contrast_terms(recorded):
    return {
        **seam_terms(recorded),
        "cross_prototype_loss": recorded["loss_cross_nce"],
        "cross_cam_loss": recorded["loss_cross_nce2"],
        "intra_view_loss": recorded["loss_intra_nce"],
    }


@golden_cases("j_train_seam")
def test_seam_trains_as_recorded(case):
    run = train(case, "seam", golden_file("c_names_resnet38_seam.txt"), replicas=None)
    compare(case, run, seam_terms)


@pytest.mark.parametrize(
    "replicas", [1, pytest.param(2, marks=pytest.mark.backends("tensorflow", reason="tf.distribute"))]
)
@golden_cases("j_train_ppc")
def test_pixel_to_prototype_contrast_trains_as_recorded(case, replicas, request):
    """On two replicas too: its terms are SEAM's and those of the contrast."""
    strategy = request.getfixturevalue("two_replicas") if replicas == 2 else None
    run = train(case, "pixel2prototype", golden_file("c_names_resnet38_contrast.txt"), strategy)
    compare(case, run, contrast_terms)
    for step, recording in enumerate(run.steps):
        for number, labels in enumerate(recording.pseudo_labels or (), start=1):
            np.testing.assert_array_equal(labels, case[f"pseudo_label{number}_step{step}"])
