"""Presets are the published numbers, frozen."""

import dataclasses

import pytest

from wsss.training.presets import PRESETS, preset


def test_published_protocols_train_with_the_weight_decay_as_momentum():
    for name, protocol in PRESETS.items():
        assert protocol.weight_decay == (1e-4 if protocol.model == "irn" else 5e-4), name
        expected = protocol.weight_decay if name.endswith("_published") else 0.9
        assert protocol.momentum == expected, name


def test_published_protocols_differ_from_the_intended_ones_in_nothing_else():
    for name in ("seam", "pixel2prototype", "affinity", "irn"):
        one, other = dataclasses.asdict(preset(name)), dataclasses.asdict(preset(f"{name}_published"))
        assert {key for key in one if one[key] != other[key]} == {"momentum", "source"}


def test_presets_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("seam").momentum = 0.1


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="seam_published"):
        preset("sema")
