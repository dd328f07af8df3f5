"""Named training protocols of the publications, as frozen data.

A preset is a set of defaults for the training program: a flag given on the command line wins over it. Each
number stands in the publications' released code; where the code and the paper differ, two presets exist and
say so.

    preset("seam").momentum            # 0.9, as meant
    preset("seam_published").momentum  # 5e-4, as the released code trains
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """How one published system is trained; the defaults are SEAM's.

    Attributes:
        model: what is trained.
        backbone: name of the network under it.
        output_stride: pixels of the image per position of the feature map.
        image_size: side of the square training crop, in pixels.
        batch_size: images per step, over all replicas.
        epochs: passes over the collection.
        optimizer: "sgd" or "adamw".
        learning_rate: at the first step, for pretrained kernels.
        momentum: of SGD.
        weight_decay: on kernels only.
        clip_norm: largest global norm of the gradient; 0 = never clipped.
        schedule_power: of the polynomial decay over all steps.
        new_layer_multiplier: learning rate of new layers, relative.
        bias_multiplier: learning rate of biases, relative.
        freeze_batch_norm: keep statistics, scale and offset of every batch normalization.
        frozen_layers: names of stages of the backbone that are not trained.
        dropout: use the spatial dropout of the backbone.
        long_side: range in pixels from which the long side of an image is sampled; None: no rescaling.
        jitter: brightness, contrast, saturation, hue.
        flip: mirror half of the images.
        view: how the second view is made, None where there is only one.
        view_scale: relative size of the second view (`view="rescale"`).
        view_size: side of the second view in pixels, in place of `view_scale`.
        background_threshold: constant background score when masks are made.
        head: of a segmentation network; None of other models.
        mixed_precision: number format; published numbers are those of float32.
        source: where the numbers stand.
    """

    model: Literal["seam", "pixel2prototype", "affinity", "irn", "deeplab"]
    backbone: str = "resnet38"
    output_stride: int = 8
    image_size: int = 448
    batch_size: int = 8
    epochs: int = 8
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float = 0.0
    schedule_power: float = 0.9
    new_layer_multiplier: float = 10.0
    bias_multiplier: float = 2.0
    freeze_batch_norm: bool = True
    frozen_layers: tuple[str, ...] = ("conv1a", "b2", "b2_1", "b2_2")
    dropout: bool = True
    long_side: tuple[int, int] | None = (448, 768)
    jitter: tuple[float, float, float, float] = (0.3, 0.3, 0.3, 0.1)
    flip: bool = True
    view: Literal["rescale"] | None = "rescale"
    view_scale: float | None = 0.3
    view_size: int | None = None
    background_threshold: float = 0.26
    head: str | None = None
    mixed_precision: Literal["none"] = "none"
    source: str = ""


def _published(preset: Preset) -> Preset:
    """The same protocol as its released code really trains.

    The weight decay is handed to the optimizer in the position of the momentum, which makes the momentum
    equal to it; the decay itself arrives through the parameter groups. The authors confirm that 0.9 was
    meant.
    """
    return dataclasses.replace(
        preset,
        momentum=preset.weight_decay,
        source=f"{preset.source}, with the momentum of the released code",
    )


_SEAM = Preset(model="seam", source="Wang et al., CVPR 2020, and YudeWang/SEAM")
_PIXEL2PROTOTYPE = Preset(
    model="pixel2prototype",
    view_scale=None,
    view_size=128,
    background_threshold=0.27,
    source="Du et al., CVPR 2022, and usr922/wseg",
)
_AFFINITY = Preset(
    model="affinity",
    long_side=None,
    view=None,
    view_scale=None,
    source="Ahn & Kwak, CVPR 2018, with the learning rate of YudeWang/SEAM",
)
_IRN = Preset(
    model="irn",
    backbone="torchvision_resnet50",
    output_stride=16,
    image_size=512,
    batch_size=32,
    epochs=3,
    learning_rate=0.1,
    weight_decay=1e-4,
    new_layer_multiplier=1.0,
    bias_multiplier=1.0,
    frozen_layers=(),
    dropout=False,
    long_side=(256, 768),
    jitter=(0.0, 0.0, 0.0, 0.0),
    view=None,
    view_scale=None,
    source="Ahn, Cho & Kwak, CVPR 2019, and jiwoon-ahn/irn",
)
_DEEPLAB_V1 = Preset(
    model="deeplab",
    head="largefov",
    batch_size=10,
    epochs=19,  # about the 20,000 steps of the publication on its 10,582 images
    learning_rate=0.001,
    frozen_layers=(),
    long_side=(250, 750),  # scales 0.5 to 1.5 of VOC's 500 pixels
    jitter=(0.0, 0.0, 0.0, 0.0),
    view=None,
    view_scale=None,
    source="Chen et al., ICLR 2015, on ResNet-38 as the segmentation network of SEAM",
)
_DEEPLAB_V2 = dataclasses.replace(
    _DEEPLAB_V1,
    head="deeplabv2",
    backbone="torchvision_resnet101",
    image_size=321,
    learning_rate=2.5e-4,
    dropout=False,
    source="Chen et al., TPAMI 2018",
)

PRESETS = {
    "seam": _SEAM,
    "seam_published": _published(_SEAM),
    "pixel2prototype": _PIXEL2PROTOTYPE,
    "pixel2prototype_published": _published(_PIXEL2PROTOTYPE),
    "affinity": _AFFINITY,
    "affinity_published": _published(_AFFINITY),
    "affinity_psa_published": _published(
        dataclasses.replace(_AFFINITY, learning_rate=0.1, source="Ahn & Kwak, CVPR 2018, and jiwoon-ahn/psa")
    ),
    "irn": _IRN,
    "irn_published": _published(_IRN),
    "deeplabv1_resnet38": _DEEPLAB_V1,
    "deeplabv2_resnet101": _DEEPLAB_V2,
}


def preset(name: str) -> Preset:
    """The `Preset` of a published system, by its name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in PRESETS:
        raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}. Received: {name!r}.")
    return PRESETS[name]
