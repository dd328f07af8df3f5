"""What the collection decides about its training where no option says it: how long, and what is trained."""

import dataclasses
from typing import Any

from wsss.data.dataset import Collection
from wsss.training.options import BUILT_IN, TrainingOptions

# New layers are trained after about 180 steps, of small collections as of large ones; four passes suffice for
# 357 photographs, and eight made their masks worse (docs/results.md).
LEAST_STEPS = 180
LEAST_EPOCHS = 4
# With fewer images the pretrained layers stay as they are: they would forget more than they learn. AdamW
# trains the new ones: its steps do not depend on the number of classes, over which the loss is a mean.
FEW_IMAGES = 100
FROZEN: dict[str, Any] = {
    "frozen_fraction": 1.0,
    "optimizer": "adamw",
    "learning_rate": 0.0001,
    "new_layer_multiplier": 50.0,
}


def choose_epochs(image_count: int, batch_size: int) -> int:
    """Passes over a collection that make about `LEAST_STEPS` steps, at least `LEAST_EPOCHS`.

    Args:
        image_count: of the split.
        batch_size: images a step.

    Example:
        >>> print(*(choose_epochs(images, 8) for images in (36, 72, 357, 10_582)))
        45 20 4 4
    """
    steps = max(1, image_count // batch_size)
    return max(LEAST_EPOCHS, round(LEAST_STEPS / steps))


def fill_in(options: TrainingOptions, collection: Collection | None) -> TrainingOptions:
    """The options with all that the collection decides.

    Args:
        options: as given.
        collection: what is trained on; None: the built-in one.
    """
    if collection is None:
        return dataclasses.replace(options, epochs=options.epochs or BUILT_IN["epochs"])
    images = sum(collection.shard_lengths.get(options.split, ()))
    epochs = options.epochs or choose_epochs(images, options.batch_size)
    return dataclasses.replace(options, epochs=epochs, **_frozen_values(options, images))


def _frozen_values(options, images):
    """What of `FROZEN` is taken; of `auto` all or nothing, where none of its options is set."""
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    unset = {name: value for name, value in FROZEN.items() if getattr(options, name) == defaults[name]}
    if options.train_backbone != "auto":
        return unset if options.train_backbone == "no" else {}
    pretrained = options.backbone_weights != "none" or options.backbone.endswith(".keras")
    freezes = pretrained and images < FEW_IMAGES and not options.learns_from_masks and unset == FROZEN
    return FROZEN if freezes else {}
