"""What training chooses by device, records, and keeps when a run is resumed."""

import pytest
import tensorflow as tf

from wsss.training.device import choose_device_settings
from wsss.training.options import TrainingOptions, preset_values


@pytest.fixture
def card(monkeypatch):
    """A function that makes TensorFlow list a card of this compute capability."""

    def show(*capability):
        listed = {"GPU": [tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")]}
        details = {"device_name": "Card", "compute_capability": capability}
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: listed.get(kind, []))
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)

    return show


def test_nothing_is_chosen_on_a_cpu():
    settings = choose_device_settings(TrainingOptions())
    assert (settings.device, settings.dtype_policy) == ("cpu", "float32")
    assert (settings.jit_compile, settings.steps_per_execution) == (False, 1)


@pytest.mark.parametrize(("capability", "policy"), [((9, 0), "mixed_bfloat16"), ((7, 5), "float32")])
def test_a_card_computes_in_bfloat16_where_it_has_it(card, capability, policy):
    card(*capability)
    settings = choose_device_settings(TrainingOptions())
    assert (settings.device, settings.name, settings.dtype_policy) == ("gpu", "Card", policy)
    assert (settings.jit_compile, settings.steps_per_execution) == (True, 16)


def test_published_and_deterministic_runs_keep_float32_on_a_card(card):
    card(9, 0)
    assert choose_device_settings(TrainingOptions(**preset_values("seam"))).dtype_policy == "float32"
    deterministic = choose_device_settings(TrainingOptions(deterministic=True))
    assert (deterministic.dtype_policy, deterministic.jit_compile) == ("float32", False)


def test_an_option_wins_over_the_record_and_the_record_over_the_device(card):
    card(9, 0)
    recorded = {"mixed_precision": "none", "jit_compile": False, "steps_per_execution": 4}
    settings = choose_device_settings(TrainingOptions(jit_compile=True), recorded)
    assert (settings.mixed_precision, settings.jit_compile, settings.steps_per_execution) == ("none", True, 4)


@pytest.mark.parametrize(("steps", "expected"), [(48, 16), (50, 10), (13, 13), (17, 1), (1, 1)])
def test_steps_at_once_divide_an_epoch(card, steps, expected):
    card(9, 0)
    assert choose_device_settings(TrainingOptions()).steps_at_once(steps) == expected
