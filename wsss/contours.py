"""A background threshold for a collection without any mask: the one whose contours follow the images' edges.

Things have edges. At a good threshold the border between thing and background runs along them; at a
threshold too low or too high it runs through plain background or through the thing. So the contrast of colour
across the contour, over all images, says which threshold is good.
"""

import numpy as np

from wsss.metrics import THRESHOLDS


class ContourContrast:
    """Contrast of colour across the contour of the foreground, for every threshold at once, in one pass.

    The contour at a threshold passes between two neighbouring pixels when one scores above it and the other
    does not. So each pair of neighbours adds its difference in colour to a range of thresholds, which is two
    entries of a difference array. All is integer; parts of a collection add up with `+`, in any order.

    Args:
        thresholds: ascending floats, compared in float32.
    """

    def __init__(self, thresholds=THRESHOLDS):
        self.thresholds = np.asarray(thresholds, np.float64)
        self._contrast = np.zeros(self.thresholds.size + 1, np.int64)
        self._length = np.zeros(self.thresholds.size + 1, np.int64)

    def update(self, image, scores):
        """Adds one image.

        Args:
            image: uint8 `(height, width, 3)`.
            scores: float `(classes, height, width)` in [0, 1], of the classes present; none changes nothing.
        """
        if not len(scores):
            return
        below = np.searchsorted(self.thresholds.astype(np.float32), scores.max(axis=0), side="left")
        for axis in (0, 1):
            first, second = _neighbours(below, axis)
            colours, others = _neighbours(image.astype(np.int64), axis)
            contrast = np.abs(colours - others).sum(axis=-1)
            crossed = first != second
            start, end = np.minimum(first, second)[crossed], np.maximum(first, second)[crossed]
            for total, weights in ((self._contrast, contrast[crossed]), (self._length, np.ones_like(start))):
                np.add.at(total, start, weights)
                np.subtract.at(total, end, weights)

    def __add__(self, other):
        total = ContourContrast(self.thresholds)
        total._contrast = self._contrast + other._contrast
        total._length = self._length + other._length
        return total

    def best(self):
        """The threshold with the highest contrast across its contour; the lowest such."""
        return float(self.thresholds[int(np.argmax(self.curve()))])

    def curve(self):
        """Mean contrast across the contour at each threshold, in grey levels summed over channels."""
        contrast, length = self._contrast.cumsum()[:-1], self._length.cumsum()[:-1]
        return contrast / np.maximum(length, 1)


def _neighbours(array, axis):
    count = array.shape[axis]
    return array.take(range(count - 1), axis), array.take(range(1, count), axis)
