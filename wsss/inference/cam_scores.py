"""From the CAMs of one image at several scales to scores and a mask; pure NumPy, no Keras.

Only the classes that the image holds are ever up-sampled: the scores of an absent class are zero by
definition, which is exact.
"""

from collections.abc import Sequence

import numpy as np

from wsss.ops.interpolation import interpolation_matrix, upsampling_matrix

_MOST_ADAPTED = 1.5  # of the threshold of an image, in multiples of that of the collection


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Size `(height, width)` of an image at a scale: rounded half to even as published, at least 1."""
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def merge_scales(
    cams: Sequence[np.ndarray], scaled_sizes: Sequence[tuple[int, int]], size: tuple[int, int]
) -> np.ndarray:
    """Sums the CAMs of several scales at the image's own size.

    The published loop resizes each scale's map and each mirrored map twice, for all classes. Interpolation is
    linear and commutes with mirroring, so here a scale comes as one sum over its mirrors, at feature
    resolution, and all scales together are a single matrix product a class.

    Args:
        cams: one float array `(classes, h, w)` a scale: the map of the image plus the flipped-back map of its
            mirror, at feature resolution.
        scaled_sizes: `(height, width)` of the image at each scale, as the network saw it.
        size: `(height, width)` of the result.

    Returns:
        float32 array `(classes, height, width)`.
    """
    height, width = size
    classes = len(cams[0])
    rows, columns = [], []
    for cam, (scaled_height, scaled_width) in zip(cams, scaled_sizes, strict=True):
        cam = np.asarray(cam, np.float32)
        rows.append(upsampling_matrix(height, scaled_height, cam.shape[1]) @ cam)
        columns.append(upsampling_matrix(width, scaled_width, cam.shape[2]))
    if not classes:
        return np.zeros((0, height, width), np.float32)
    return np.concatenate(rows, axis=2) @ np.concatenate(columns, axis=1).T


def view_agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How alike the CAMs of two views of an image are: the correlation over their positions, at least 0.

    Of several measures the overlap of the positive parts says nothing about the masks, see docs/results.md.

    Args:
        first: float array `(…, classes, height, width)`.
        second: of the same shape, of another view, on the same grid.

    Returns:
        float32 array `(…, classes)`, in [0, 1]; 0 where a map is constant.
    """
    maps = [np.asarray(cam, np.float32) for cam in (first, second)]
    maps = [cam - cam.mean(axis=(-2, -1), keepdims=True) for cam in maps]
    together = (maps[0] * maps[1]).sum(axis=(-2, -1))
    apart = np.sqrt(np.square(maps[0]).sum(axis=(-2, -1)) * np.square(maps[1]).sum(axis=(-2, -1)))
    return np.clip(np.divide(together, apart, out=np.zeros_like(apart), where=apart > 1e-12), 0, 1)


def normalize_scores(summed: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    """Scores in [0, 1] from summed CAMs: the positive part, min-max normalized for each class.

    Pixels within `epsilon` of the minimum become zero, where the published code lets them be slightly
    negative (a class that is zero everywhere: -1); no threshold in [0, 1] separates the two.

    Args:
        summed: float array `(classes, height, width)`.
        epsilon: > 0, absolute.

    Returns:
        float32 array of the same shape, in [0, 1].
    """
    rectified = np.maximum(summed, 0, dtype=np.float32)
    low = rectified.min(axis=(1, 2), keepdims=True)
    high = rectified.max(axis=(1, 2), keepdims=True)
    scores = np.maximum(rectified - low - np.float32(epsilon), 0, out=rectified)
    scores /= high - low + np.float32(epsilon)
    return scores


def normalize_probabilities(summed: np.ndarray) -> np.ndarray:
    """Probabilities of the background and of the classes that compete, from sums over scales and mirrors.

    Args:
        summed: float array `(1 + classes, height, width)`, the background and the classes that are present.

    Returns:
        float32 array of the same shape whose sum over the first axis is 1.
    """
    return (summed / np.maximum(summed.sum(axis=0), 1e-12)).astype(np.float32)


def round_scores(scores: np.ndarray) -> np.ndarray:
    """Scores rounded to float16, as score files hold them: masks are the same from the file.

    Args:
        scores: float array of any shape, in [0, 1].

    Returns:
        float32 array of the same shape; each differs by 1/4096 at most.
    """
    return scores.astype(np.float16).astype(np.float32)


def background_scores(
    scores: np.ndarray, threshold: float | None = None, alpha: float | None = None
) -> np.ndarray:
    """Score of the background at each pixel: a constant, or `(1 - max_c scores_c) ** alpha`.

    Source of the second: Ahn & Kwak, CVPR 2018, section 3.1.

    Args:
        scores: float array `(classes, height, width)`, each in [0, 1].
        threshold: the constant, in [0, 1].
        alpha: > 0; the larger, the less background. Exactly one of the two is given.

    Returns:
        float32 array `(height, width)`.

    Raises:
        ValueError: both or neither are given.
    """
    if (threshold is None) == (alpha is None):
        raise ValueError(
            f"Give either `threshold` or `alpha`. Received: threshold={threshold}, alpha={alpha}."
        )
    shape = scores.shape[1:]
    if alpha is None:
        return np.full(shape, threshold, np.float32)
    strongest = scores.max(axis=0) if len(scores) else np.zeros(shape, np.float32)
    return (1 - strongest).astype(np.float32) ** np.float32(alpha)


def otsu_threshold(values: np.ndarray, bins: int = 1000) -> float:
    """The threshold that parts values with the largest variance between both parts.

    Source: Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 1979.

    Args:
        values: float array of any shape, in [0, 1].
        bins: number of bins of the histogram.

    Returns:
        The threshold, in (0, 1): values above it are of the upper part.
    """
    indices = (np.clip(values, 0, 1) * bins).astype(np.int64)
    fractions = np.bincount(indices.ravel(), minlength=bins + 1) / max(1, indices.size)
    centers = (np.arange(bins + 1) + 0.5) / bins
    weight, mean = fractions.cumsum(), (fractions * centers).cumsum()
    between = (mean[-1] * weight - mean) ** 2 / np.maximum(weight * (1 - weight), 1e-12)
    return float(min(centers[between.argmax()], 1 - 0.5 / bins))


def adapted_threshold(scores: np.ndarray, threshold: float, adaptation: float) -> float:
    """A collection's background threshold, moved towards that of one image.

    Of few classes or large objects the best threshold differs much between images; Otsu's of one image alone
    errs where it holds little background. Their mean errs less, see benchmarks/background_threshold.py. It is
    at most 1.5 times that of the collection: narrow CAMs would lose the edges of the objects.

    Args:
        scores: float array `(classes, height, width)`, each in [0, 1].
        threshold: of the collection, in [0, 1].
        adaptation: weight in [0, 1] of Otsu's threshold of the strongest score of each pixel.

    Returns:
        The threshold of this image; that of the collection where it has no class.
    """
    if not adaptation or not len(scores):
        return threshold
    mixed = adaptation * otsu_threshold(scores.max(axis=0)) + (1 - adaptation) * threshold
    return min(mixed, _MOST_ADAPTED * threshold)


def mask_from_scores(scores: np.ndarray, class_ids: Sequence[int], background: np.ndarray) -> np.ndarray:
    """The label of the highest score at each pixel; ties go to the background, then to the smaller class.

    Args:
        scores: float array `(classes, height, width)`.
        class_ids: 0-based, of the rows of `scores`, ascending; the mask holds `class_id + 1`.
        background: float array `(height, width)`.

    Returns:
        uint8 array `(height, width)`, 0 = background.
    """
    labels = np.concatenate([[0], np.asarray(class_ids, np.int64) + 1]).astype(np.uint8)
    return labels[np.concatenate([background[None], scores]).argmax(axis=0)]


def mean_of_cells(scores: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """Scores on a coarser grid: the mean over each square cell, with zeros beyond the right and bottom edge.

    Args:
        scores: float array `(classes, height, width)`.
        cells: `(h, w)` of the grid; a cell has `ceil(height / h)` by `ceil(width / w)` pixels.

    Returns:
        float32 array `(classes, h, w)`.
    """
    (height, width), (h, w) = scores.shape[1:], cells
    rows, columns = -(-height // h), -(-width // w)
    padded = np.zeros((len(scores), h * rows, w * columns), np.float32)
    padded[:, :height, :width] = scores
    return padded.reshape(len(scores), h, rows, w, columns).mean(axis=(2, 4))


def enlarge_cells(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Undoes `mean_of_cells` up to its blur: half-pixel bilinear interpolation, cut to the image.

    Args:
        scores: float array `(classes, h, w)`.
        size: `(height, width)` of the image.

    Returns:
        float32 array `(classes, height, width)`.
    """
    rows, columns = (
        interpolation_matrix(cells * -(-pixels // cells), cells)[:pixels].astype(np.float32)
        for pixels, cells in zip(size, scores.shape[1:], strict=True)
    )
    return np.ascontiguousarray(rows @ scores @ columns.T)
