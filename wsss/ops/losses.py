"""Loss terms of SEAM, each one value an image: the published number is the mean over the batch.

Source: Wang et al., "Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic
Segmentation", CVPR 2020, section 3, and the released code.

Channels. The authors carry a background channel 0 through all maps, but read it in one place only.
Here it stands just there: class maps (`cam`) hold the K foreground classes, because the published
losses overwrite their background by `1 - max` of the foreground; a refined map (`refined_cam`) holds
K + 1 channels, because cross-view regularization compares its refined background (channel 0). Pass
`cam[..., 1:]` of a 21-channel network; where a network refines the foreground only, `add_background`
of its normalized maps gives the missing channel.

Every loss is computed in float32, whatever the precision of the maps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from wsss.ops.cam import add_background, background_score, mask_classes, max_normalize, max_onehot


class View(NamedTuple):
    """Maps of one view of the images."""

    cam: Any  # float (batch, height, width, K), raw
    refined_cam: Any  # float (batch, height, width, K or K + 1), raw; channel 0 of K + 1 is the background


class Regularization(NamedTuple):
    """Equivariant regularization of two views, each float (batch,)."""

    equivariance: Any
    cross_equivariance: Any


def min_pooling_loss(cam: Any, image_labels: Any = None, rate: float = 0.25) -> Any:
    """Adaptive min pooling: mean positive activation of the pixels where it is lowest.

    Keeps maps from flooding the image: some part of every image is background. Source: SEAM's
    released code.

    Args:
        cam: float (batch, height, width, classes), foreground, not normalized.
        image_labels: float 0/1 (batch, classes) or None; maps of other classes count as 0.
        rate: in (0, 1], fraction of the pixels.

    Returns:
        float (batch,).
    """
    cam = ops.cast(cam, "float32")
    cam = cam if image_labels is None else mask_classes(cam, image_labels)
    strongest = _flatten(ops.max(cam, axis=-1))
    return ops.mean(ops.relu(-_largest(-strongest, rate)), axis=-1)


def equivariance_loss(cam: Any, other_cam: Any) -> Any:
    """Equivariance (ER): mean absolute difference of two views' normalized maps.

    Args:
        cam: float (batch, height, width, classes), of one view, brought to the other's pixels.
        other_cam: float, shaped like `cam`, of the other view.

    Returns:
        float (batch,).
    """
    return ops.mean(ops.abs(cam - other_cam), axis=(1, 2, 3))


def cross_equivariance_loss(cam: Any, refined_cam: Any, rate: float = 0.2) -> Any:
    """Equivariance across the refinement (ECR): refined maps follow the other view's plain maps.

    Compares with the strongest class of `cam` alone, without gradient to it, and averages over the
    largest differences of each image.

    Args:
        cam: float (batch, height, width, K), one view's normalized foreground maps.
        refined_cam: float (batch, height, width, K + 1), the other view's normalized refined maps
            on the same pixels, background in channel 0.
        rate: in (0, 1], fraction of the elements, the largest, that counts.

    Returns:
        float (batch,).
    """
    target = ops.concatenate([background_score(cam), max_onehot(cam)], axis=-1)
    difference = ops.abs(ops.stop_gradient(target) - refined_cam)
    return ops.mean(_largest(_flatten(difference), rate), axis=-1)


def equivariant_regularization(
    view: View,
    other: View,
    image_labels: Any,
    to_other: Callable[[Any], Any],
    rate: float = 0.2,
    epsilon: float = 1e-5,
) -> Regularization:
    """Both equivariance terms of a pair of views, from raw maps.

    Args:
        view: `View` of the images.
        other: `View` of the transformed images.
        image_labels: float 0/1 (batch, K).
        to_other: function from maps on `view`'s pixels to maps on `other`'s, the transform of the
            images applied to maps (SEAM: resizing to 0.3 with aligned corners).
        rate: in (0, 1], fraction of the elements in `cross_equivariance_loss`.
        epsilon: > 0, of `max_normalize`.

    Returns:
        `Regularization`.
    """

    classes = view.cam.shape[-1]

    def normalize(maps, transform=lambda maps: maps):
        # The image labels say nothing about the background: where there is one, it stays.
        background = maps.shape[-1] - classes
        labels = ops.pad(image_labels, ((0, 0), (background, 0)), constant_values=1)
        return mask_classes(transform(max_normalize(ops.cast(maps, "float32"), epsilon)), labels)

    def normalize_refined(maps, transform=lambda maps: maps):
        maps = normalize(maps, transform)
        return add_background(maps) if maps.shape[-1] == classes else maps

    cam, refined_cam = normalize(view.cam, to_other), normalize_refined(view.refined_cam, to_other)
    other_cam, other_refined_cam = normalize(other.cam), normalize_refined(other.refined_cam)
    return Regularization(
        equivariance=equivariance_loss(cam, other_cam),
        cross_equivariance=cross_equivariance_loss(other_cam, refined_cam, rate)
        + cross_equivariance_loss(cam, other_refined_cam, rate),
    )


def _flatten(maps):
    return ops.reshape(maps, (ops.shape(maps)[0], -1))


def _largest(values, rate):
    """The `int(rate * n)` largest of `n` values of each row, at least one."""
    count = ops.shape(values)[1]
    if isinstance(count, int):
        kept = max(int(count * rate), 1)
    else:
        kept = ops.maximum(ops.cast(ops.cast(count, "float64") * rate, "int32"), 1)
    return ops.top_k(values, kept, sorted=False)[0]
