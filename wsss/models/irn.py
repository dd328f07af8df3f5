"""IRNet: where one thing ends, and where the middle of each lies, learned from the labels of pixel pairs."""

import keras
from keras import ops

from wsss.backbones.resnet import merge_mirrored_edges, relation_network
from wsss.models.pair_model import PairNetwork, share_of_pairs
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
class IRNet(PairNetwork):
    """Inter-pixel relation network: class boundaries, and displacements to the centroid of the instance.

    Source: Ahn, Cho & Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations",
    CVPR 2019, and the released code. Trains as every `PairNetwork`; `predict` gives the network's outputs.

    Args:
        backbone: a `Backbone` with stages at stride 4 and 8; it is frozen.
        radius: int >= 2, positions of a quarter of the image's size; pairs nearer than this are learned.
        network: model from images to `edge` (logits) and `displacement`, in place of `backbone`; see
            `relation_network`.

    Attributes:
        edge: Keras model, images -> float (batch, h, w, 1), probability that a class ends there, merged from
            the image and its mirror.
    """

    LOSS_TERMS = (
        *("background_loss", "foreground_loss", "negative_loss"),
        *("displacement_background_loss", "displacement_foreground_loss"),
    )

    def __init__(self, backbone=None, radius=10, *, network=None, name="irnet", **kwargs):
        if network is None:
            network = relation_network(backbone.input, backbone.stages, backbone.output_stride, backbone.stem)
        super().__init__(network, radius, name=name, **kwargs)

    @property
    def edge(self):
        """Model of the same weights, images -> boundary probabilities."""
        images = self.network.input
        of_image, of_mirror = (self.network(x)["edge"] for x in (images, ops.flip(images, axis=2)))
        return keras.Model(images, merge_mirrored_edges(of_image, of_mirror), name="edge")

    def pair_terms(self, y_pred, labels):
        """A quarter of both kinds of pairs alike, half of those that differ; half of each displacement."""
        offsets = path_offsets(self.radius)
        pairs = pair_labels(labels, offsets)
        edge = ops.sigmoid(ops.cast(y_pred["edge"], "float32"))
        affinity = affinity_loss(path_affinity(edge, self.radius), pairs)
        affinity = AffinityLoss(*(term * share_of_pairs(kind) for term, kind in zip(affinity, pairs)))
        displacement = displacement_loss(y_pred["displacement"], pairs, offsets)
        displacement = DisplacementLoss(
            *(term * share_of_pairs(kind) for term, kind in zip(displacement, pairs[:2]))
        )
        return (*affinity, *displacement), affinity.total + displacement.total
