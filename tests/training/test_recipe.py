"""What the collection decides about its training."""

import pytest

from wsss.data.dataset import Collection
from wsss.training.options import BUILT_IN, TrainingOptions, preset_values
from wsss.training.recipe import FEW_IMAGES, FROZEN, LEAST_EPOCHS, LEAST_STEPS, choose_epochs, fill_in


def collection(images):
    return Collection("shards", "photographs", ("cat",), {"train": (images,), "val": (5,)})


@pytest.mark.parametrize(("images", "batch_size"), [(16, 8), (72, 8), (150, 4), (100, 32), (7, 8)])
def test_a_small_collection_is_passed_until_the_steps_are_done(images, batch_size):
    steps = choose_epochs(images, batch_size) * max(1, images // batch_size)

    assert abs(steps - LEAST_STEPS) <= max(1, images // batch_size)


def test_a_large_collection_has_a_few_passes():
    assert choose_epochs(10_582, 8) == LEAST_EPOCHS
    assert choose_epochs(10_582, 2) == LEAST_EPOCHS


def test_epochs_follow_from_the_images_of_the_split_that_is_trained_on():
    options = TrainingOptions(data="shards", split="val", batch_size=1)

    assert fill_in(options, collection(900)).epochs == LEAST_STEPS // 5
    assert fill_in(TrainingOptions(data="shards"), collection(900)).epochs == LEAST_EPOCHS


def test_epochs_that_are_given_are_kept():
    assert fill_in(TrainingOptions(data="shards", epochs=2), collection(16)).epochs == 2


def test_the_built_in_collection_has_the_epochs_of_its_preset():
    assert fill_in(TrainingOptions(), None).epochs == BUILT_IN["epochs"]


def test_epochs_that_are_still_open_are_no_number_of_passes():
    with pytest.raises(ValueError, match="fill_in"):
        _ = TrainingOptions(data="shards").passes


def frozen(images, **options):
    """Whether the options of a frozen backbone are filled in; none or all of them are."""
    options = TrainingOptions(data="shards", **options)
    filled = fill_in(options, collection(images))
    taken = {name: getattr(filled, name) for name in FROZEN}
    assert taken in (FROZEN, {name: getattr(options, name) for name in FROZEN})
    return taken == FROZEN


def test_the_backbone_of_few_images_is_frozen_and_of_others_trained():
    assert frozen(FEW_IMAGES - 1)
    assert frozen(FEW_IMAGES - 1, backbone="own.keras", backbone_weights="none")
    assert not frozen(FEW_IMAGES)


def test_a_backbone_without_pretrained_weights_is_trained():
    assert not frozen(10, backbone="small", backbone_weights="none")


def test_train_backbone_decides_whatever_the_number_of_images():
    assert not frozen(10, train_backbone="yes")
    assert frozen(900, train_backbone="no")


def test_a_backbone_that_is_not_trained_stays_frozen_at_another_learning_rate():
    given = TrainingOptions(data="shards", train_backbone="no", learning_rate=0.01)
    filled = fill_in(given, collection(900))
    assert (filled.frozen_fraction, filled.optimizer, filled.learning_rate) == (1.0, "adamw", 0.01)


@pytest.mark.parametrize(
    "given",
    [
        {"optimizer": "adamw"},
        {"learning_rate": 0.01},
        {"frozen_fraction": 0.5},
        {"model": "deeplab"},
        preset_values("seam"),
    ],
)
def test_options_that_are_given_and_presets_are_kept(given):
    assert not frozen(10, **given)
