"""Pixel correlation of SEAM, without the matrix of all pairs of pixels."""

from keras import ops

from wsss.ops.resize import resize_bilinear


def pixel_correlation(cam, feature, epsilon=1e-5):
    """Each pixel's map values replaced by a mean over the pixels that look like it.

    The similarity of two pixels is the cosine of their features, negative ones cut to 0, and the
    weights of each mean sum to 1. Source: Wang et al., CVPR 2020 (SEAM), section 3.3; the softmax and
    the residual of a non-local block are absent there and here.

    Args:
        cam: float (batch, h, w, classes); resized (aligned corners) where its size is not the
            feature's.
        feature: float (batch, height, width, channels), not normalised.
        epsilon: > 0, added to the length of a feature and to the sum of a pixel's weights.

    Returns:
        float (batch, height, width, classes), dtype of `cam`.
    """
    batch, height, width, channels = ops.shape(feature)
    cam_dtype = cam.dtype
    cam = resize_bilinear(ops.cast(cam, "float32"), (height, width), align_corners=True)
    classes = cam.shape[-1]
    feature = _normalize(ops.cast(feature, "float32"), epsilon)
    pixels = ops.reshape(feature, (batch, height * width, channels))
    values = ops.reshape(cam, (batch, height * width, classes))
    similarity = ops.relu(ops.matmul(pixels, ops.transpose(pixels, (0, 2, 1))))
    total = ops.sum(similarity, axis=-1, keepdims=True)
    refined = ops.matmul(similarity, values) / (total + epsilon)
    return ops.cast(ops.reshape(refined, (batch, height, width, classes)), cam_dtype)


def _normalize(feature, epsilon):
    """Features of length 1 (0 where there is none, with gradient 0 and not NaN)."""
    squares = ops.sum(ops.square(feature), axis=-1, keepdims=True)
    length = ops.where(squares > 0, ops.sqrt(ops.where(squares > 0, squares, 1.0)), 0.0)
    return feature / (length + epsilon)
