"""IRN: class boundaries and displacements to the centroids of instances, from labels of pixel pairs.

Source: Ahn, Cho & Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations",
CVPR 2019, and the released code (jiwoon-ahn/irn). Layers bear the names of the published state dicts, `-` for
`.`; the branches stand on ResNet-50 as published, or on any backbone.
"""

from typing import Any, NamedTuple

import keras
from keras import layers, ops

from wsss.backbones.base import Backbone
from wsss.backbones.resnet import EPSILON, resnet
from wsss.layers.heads import StopGradient
from wsss.layers.resize import UpsampleLike
from wsss.models.pair_model import PairModel, pair_fraction
from wsss.ops.affinity import (
    AffinityLoss,
    DisplacementLoss,
    affinity_loss,
    displacement_loss,
    pair_labels,
    path_affinity,
    path_offsets,
)


@keras.saving.register_keras_serializable(package="wsss")
class IRNet(PairModel):
    """Inter-pixel relation network: class boundaries, and displacements to the centroid of the instance.

    Source: Ahn, Cho & Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations",
    CVPR 2019, and the released code. Trains as every `PairModel`; `predict` gives the network's outputs.

    Args:
        backbone: a `Backbone` with stages at stride 4 and 8; it is frozen.
        radius: int >= 2, positions of a quarter of the image's size; pairs nearer than this are learned.
        network: model from images to `edge` (logits) and `displacement`, in place of `backbone`; see
            `relation_network`.

    Attributes:
        edge: Keras model, images -> float (batch, h, w, 1), class-boundary probability, merged from
            the image and its mirror.

    Example:
        >>> import numpy as np
        >>> from wsss.backbones.tiny import small_backbone
        >>> model = IRNet(small_backbone(8, width=8), radius=3)
        >>> model.compile("adam")
        >>> images, label_maps = np.zeros((2, 64, 64, 3), "float32"), np.zeros((2, 64, 64), "int32")
        >>> history = model.fit(images, label_maps, verbose=0)
        >>> model.edge.predict(images, verbose=0).shape
        (2, 16, 16, 1)
    """

    LOSS_TERMS = (
        *("background_loss", "foreground_loss", "negative_loss"),
        *("displacement_background_loss", "displacement_foreground_loss"),
    )

    def __init__(
        self,
        backbone: Backbone | None = None,
        radius: int = 10,
        *,
        network: keras.Model | None = None,
        name: str = "irnet",
        **kwargs,
    ):
        if network is None:
            if backbone is None:
                raise ValueError("IRNet needs a `backbone`, or the `network` that a saved one has.")
            network = relation_network(backbone.input, backbone.stages, backbone.output_stride, backbone.stem)
        super().__init__(network, radius, name=name, **kwargs)

    @property
    def edge(self) -> keras.Model:
        """Model of the same weights, images -> boundary probabilities."""
        images = self.network.input
        of_image, of_mirror = (self.network(x)["edge"] for x in (images, ops.flip(images, axis=2)))
        return keras.Model(images, merge_mirrored_edges(of_image, of_mirror), name="edge")

    def pair_terms(self, y_pred: Any, labels: Any) -> tuple[tuple, Any]:
        """A quarter of both kinds of pairs alike, half of those that differ; half of each displacement."""
        offsets = path_offsets(self.radius)
        pairs = pair_labels(labels, offsets)
        edge = ops.sigmoid(ops.cast(y_pred["edge"], "float32"))
        affinity = affinity_loss(path_affinity(edge, self.radius), pairs)
        affinity = AffinityLoss(*(term * pair_fraction(kind) for term, kind in zip(affinity, pairs)))
        displacement = displacement_loss(y_pred["displacement"], pairs, offsets)
        displacement = DisplacementLoss(
            *(term * pair_fraction(kind) for term, kind in zip(displacement, pairs[:2]))
        )
        return (*affinity, *displacement), affinity.total + displacement.total


def irn_cam(classes: int = 20, **options) -> keras.Model:
    """IRN's classification network: `model(images)` gives its class activation maps, before the ReLU.

    The class scores are the spatial means of the maps. Merge an image with its mirror by
    `relu(cam) + flip(relu(cam of the mirror))`.

    Args:
        classes: foreground classes.
        **options: of `resnet`.

    Returns:
        Model from images to float (batch, height / 16, width / 16, classes).
    """
    image, *_, feature = resnet(**_irn_options(options))
    cam = layers.Conv2D(classes, 1, use_bias=False, name="classifier")(feature)
    return keras.Model(image, cam, name="irn_cam")


def irn_edge(**options) -> keras.Model:
    """IRN's inter-pixel relation network on ResNet-50; see `relation_network`.

    Args:
        **options: of `resnet`.
    """
    image, _, stem, *stages = resnet(**_irn_options(options))
    return relation_network(image, dict(zip((4, 8, 16, 32), stages)), 16, stem)


def relation_network(image: Any, stages: dict[int, Any], output_stride: int, stem: Any = None) -> keras.Model:
    """Class boundaries, and the displacement of each pixel to the centroid of its instance.

    The network below is frozen; both branches see all of its stages from stride 4 on.

    Args:
        image: `keras.Input` (batch, height, width, 3).
        stages: stride of the original network -> Keras tensor, 4 and 8 among the strides.
        output_stride: pixels of the image per position of the last stage.
        stem: Keras tensor at stride 4, before the first stage; None leaves its branches out.

    Returns:
        Model from images to a dictionary of `edge`, float (batch, height / 4, width / 4, 1), logits, and
        `displacement`, float (batch, height / 4, width / 4, 2), in positions, (y, x).

    Raises:
        ValueError: there is no stage at stride 4, or none at stride 8.
    """
    if not {4, 8} <= set(stages) or output_stride < 8:
        raise ValueError(
            "IRN's branches need a stage at stride 4 and one at stride 8. Received: strides "
            f"{', '.join(map(str, stages))} at output stride {output_stride}."
        )
    backbone = keras.Model(image, list(stages.values()))
    branched = [_Stage(1, 4, stem)] if stem is not None else []
    branched += [
        _Stage(number, min(stride, output_stride), stages[stride])
        for number, stride in enumerate((4, 8, 16, 32), start=2)
        if stride in stages
    ]
    branched = [stage._replace(feature=StopGradient()(stage.feature)) for stage in branched]
    edge, displacement = _edge_branch(branched), _displacement_branch(branched)
    for layer in backbone.layers:
        layer.trainable = False
    return keras.Model(image, {"edge": edge, "displacement": displacement}, name="irn_edge")


def merge_mirrored_edges(edge: Any, mirrored_edge: Any) -> Any:
    """Boundary probability of an image from its own and its mirror's logits.

    Args:
        edge: float (batch, height, width, 1), logits of the image, cropped to its size.
        mirrored_edge: the same of the mirrored image, not yet mirrored back.

    Returns:
        float (batch, height, width, 1), in (0, 1).
    """
    return ops.sigmoid(ops.add(edge, ops.flip(mirrored_edge, axis=2)) / 2)


@keras.saving.register_keras_serializable(package="wsss")
class MeanShift(layers.Layer):
    """Subtracts the mean displacement of the training set in inference, nothing in training.

    The weight `moving_mean` (channels) is not trained but measured, as a batch normalization's: while
    training it follows the batches' means.

    Args:
        momentum: of the moving mean, in [0, 1].
    """

    def __init__(self, momentum: float = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum

    def build(self, input_shape):
        self.moving_mean = self.add_weight(
            shape=(input_shape[-1],),
            initializer="zeros",
            trainable=False,
            aggregation="mean",  # over replicas
            name="moving_mean",
        )

    def call(self, x, training=False):
        if not training:
            return x - ops.cast(self.moving_mean, x.dtype)
        mean = ops.cast(ops.mean(x, axis=(0, 1, 2)), self.moving_mean.dtype)
        self.moving_mean.assign(self.momentum * self.moving_mean + (1 - self.momentum) * mean)
        return x

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


def _irn_options(options):
    return {"prefix": "resnet50-", "output_stride": 16, "dilate": False, **options}


class _Stage(NamedTuple):
    """Features that the branches see: their published number, their stride, and themselves."""

    number: int
    stride: int
    feature: Any


def _edge_branch(stages):
    reference = _first_of_stride(stages, 4)
    branches = [
        _branch(
            stage.feature,
            f"fc_edge{stage.number}",
            32,
            groups=4,
            factor=stage.stride // 4,
            reference=reference,
        )
        for stage in stages
    ]
    return layers.Conv2D(1, 1, name="fc_edge6")(layers.Concatenate(name="fc_edge")(branches))


def _displacement_branch(stages):
    references = {stride: _first_of_stride(stages, stride) for stride in (4, 8)}
    fine: list[Any] = []
    coarse: list[Any] = []
    for stage in stages:
        to_stride = min(stage.stride, 8)
        branch = _branch(
            stage.feature,
            f"fc_dp{stage.number}",
            {1: 64, 2: 128}.get(stage.number, 256),
            groups=8 if stage.number == 1 else 16,
            factor=stage.stride // to_stride,
            reference=references[to_stride],
        )
        (fine if to_stride == 4 else coarse).append(branch)
    x = layers.Concatenate(name="fc_dp_coarse")(coarse)
    fine.append(_branch(x, "fc_dp6", 256, groups=16, factor=2, reference=references[4]))
    x = _branch(layers.Concatenate(name="fc_dp_fine")(fine), "fc_dp7", 256, groups=16)
    x = layers.Conv2D(2, 1, use_bias=False, name="fc_dp7-3")(x)
    return MeanShift(name="mean_shift")(x)


def _first_of_stride(stages, stride):
    return next(stage.feature for stage in stages if stage.stride == stride)


def _branch(x, name, channels, *, groups, factor=1, reference=None):
    """1x1 convolution, group normalization, enlargement, ReLU; numbered as in the published `Sequential`s."""
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}-0")(x)
    x = layers.GroupNormalization(groups, epsilon=EPSILON, name=f"{name}-1")(x)
    if factor > 1:
        x = UpsampleLike(factor, name=f"{name}-up")([x, reference])
    return layers.ReLU(name=f"{name}-relu")(x)
