"""The published networks, complete: what `wsss.convert` fills and `--backbone resnet38` trains."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from wsss.backbones.resnet import torchvision_backbone
from wsss.backbones.resnet38 import resnet38_backbone
from wsss.common.errors import UserError
from wsss.models.affinity_net import AffinityNet, affinity_feature
from wsss.models.irn import IRNet, irn_cam, irn_edge
from wsss.models.pixel2prototype import Pixel2Prototype
from wsss.models.seam import SEAM
from wsss.models.views import RescaledView


class PublishedNetwork(NamedTuple):
    """One published network.

    Attributes:
        build: `(**options) -> keras.Model`; options are those of its backbone, and `classes` where there are
            classes.
        classes_of: published name of the tensor whose first size is the number of classes, None where
            there are no classes.
        background: whether that size counts a background channel.
        description: for people.
    """

    build: Callable
    classes_of: str | None
    background: bool
    description: str


def published_seam(classes: int = 20, classification_activation: str = "sigmoid", **options) -> SEAM:
    """`resnet38_SEAM`: class maps, and their refinement by pixel correlation."""
    return SEAM.from_backbone(
        resnet38_backbone(**options),
        classes,
        classification_activation=classification_activation,
        view=RescaledView(0.3),
        **_head_options(**options),
    )


def published_pixel2prototype(
    classes: int = 20, classification_activation: str = "sigmoid", **options
) -> Pixel2Prototype:
    """`resnet38_contrast`: SEAM's network with a projection for the contrast."""
    backbone = resnet38_backbone(**options)
    projection = layers.Conv2D(128, 1, use_bias=False, activation="relu", name="projection")
    return Pixel2Prototype.from_backbone(
        backbone,
        classes,
        project_feature=projection(backbone.feature),
        classification_activation=classification_activation,
        view=RescaledView(size=(128, 128)),
        **_head_options(**options),
    )


def published_affinity(**options) -> AffinityNet:
    """`resnet38_aff`: AffinityNet on ResNet-38d."""
    backbone = resnet38_backbone(**options)
    return AffinityNet(backbone.input, affinity_feature(*backbone.stages.values()))


def published_irnet(**options) -> IRNet:
    """`resnet50_irn`: IRN, class boundaries and displacements, on ResNet-50."""
    return IRNet(network=irn_edge(**options))


def _head_options(dropout=True, **_):
    return {"dropout": 0.5 if dropout else 0.0, "cam_background": True}


def _feature_model(backbone):
    return keras.Model(backbone.input, backbone.feature)


NETWORKS = {
    "seam": PublishedNetwork(published_seam, "fc8.weight", True, "SEAM on ResNet-38d"),
    "pixel2prototype": PublishedNetwork(
        published_pixel2prototype, "fc8.weight", True, "Pixel-to-Prototype Contrast on ResNet-38d"
    ),
    "affinity": PublishedNetwork(published_affinity, None, False, "AffinityNet on ResNet-38d"),
    "irn_cam": PublishedNetwork(irn_cam, "classifier.weight", False, "IRN's classifier, ResNet-50"),
    "irn_edge": PublishedNetwork(
        published_irnet,
        None,
        False,
        "IRN's edges and displacements, ResNet-50",
    ),
    "resnet38": PublishedNetwork(
        lambda **options: _feature_model(resnet38_backbone(**options)),
        None,
        False,
        "ResNet-38d, features",
    ),
    "resnet50": PublishedNetwork(
        lambda **options: _feature_model(torchvision_backbone(50, 32, **options)),
        None,
        False,
        "torchvision's ResNet-50, features",
    ),
    "resnet101": PublishedNetwork(
        lambda **options: _feature_model(torchvision_backbone(101, 32, **options)),
        None,
        False,
        "torchvision's ResNet-101, features",
    ),
}


def build_network(name: str, classes: int | None = 20, **options) -> keras.Model:
    """A published network with random weights.

    Args:
        name: a key of `NETWORKS`.
        classes: foreground classes; not used for a network without classes.
        **options: of its backbone, such as `normalize` and `width`.

    Returns:
        `keras.Model`.
    """
    network = NETWORKS[name]
    return network.build(**({"classes": classes} if network.classes_of else {}), **options)


_TELLTALES = (  # beginning of a name that only this network, or one named before, has
    ("fc_edge", "irn_edge"),
    ("fc_dp", "irn_edge"),
    ("resnet50.", "irn_cam"),
    ("layer3.22.", "resnet101"),
    ("layer4.", "resnet50"),
    ("fc_proj.", "pixel2prototype"),
    ("f8_5.", "affinity"),
    ("fc8.", "seam"),
    ("f8_", "seam"),
    ("b4_5.", "resnet38"),
)


def identify(tensors: Mapping[str, np.ndarray]) -> str:
    """The published network, a key of `NETWORKS`, that a state dict seems to belong to.

    Raises:
        UserError: no name in the file is known.
    """
    for beginning, network in _TELLTALES:
        if any(name.startswith(beginning) for name in tensors):
            return network
    raise UserError(
        f"its tensors belong to no network known here (the first is `{next(iter(tensors))}`); "
        f"the networks are {', '.join(NETWORKS)}"
    )


def count_classes(name: str, tensors: Mapping[str, np.ndarray]) -> int | None:
    """Foreground classes of a state dict of the network `name`; None where the network has no classes.

    Raises:
        UserError: the tensor that has it is missing.
    """
    network = NETWORKS[name]
    if network.classes_of is None:
        return None
    if network.classes_of not in tensors:
        raise UserError(f"tensor `{network.classes_of}` is missing")
    return tensors[network.classes_of].shape[0] - network.background
