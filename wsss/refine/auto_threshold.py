"""A background threshold for a collection, chosen without any mask.

The CRF moves the borders of a mask to the edges of the image. Where the threshold is too low, it takes back
what is too much; where it is too high, it loses what is left; in between it changes least. So: label a sample
of images at several thresholds, refine the labels, and take the threshold whose masks agree best with
themselves before and after. Agreement is Cohen's kappa, what two masks have in common beyond what chance
gives two masks of so much background: plain agreement is best where all is background, or nothing.

Maps that follow no edge agree best at an end, where all is a thing or nothing is. That says nothing, and the
threshold is the mean of the strongest class score: a pixel is a thing where it scores above average. How near
this comes to the best threshold on the truth, and how its halves and other rules do, is measured in
`benchmarks/background_threshold.py`.
"""

import numpy as np

from wsss.refine.dense_crf import DenseCRF, unary_from_probabilities

THRESHOLDS = np.arange(4, 78, 4) / 100
_SIDE = 128  # pixels; images of which the shorter side is longer are treated at a fraction of their size
_MICRO = 1_000_000


class ThresholdAgreement:
    """Agreement of masks before and after the CRF, for several thresholds; adds up over images with `+`.

    All that adds up are integers, so that neither the order nor the grouping of images changes the choice.

    Args:
        thresholds: ascending, in [0, 1].
    """

    def __init__(self, thresholds=THRESHOLDS):
        self.thresholds = np.asarray(thresholds, np.float64)
        inside = self.thresholds.size and self.thresholds[0] >= 0 and self.thresholds[-1] <= 1
        if not inside or np.any(np.diff(self.thresholds) <= 0):
            raise ValueError("`thresholds` must be ascending, at least one, and lie in [0, 1].")
        # Pixels: of the same label before and after, foreground before, foreground after, all.
        self._counts = np.zeros((self.thresholds.size, 4), np.int64)
        # Pixels of the images, and the sum of their strongest scores in millionths.
        self._strongest = np.zeros(2, np.int64)

    def update(self, image, scores):
        """Adds one image.

        Args:
            image: uint8 (height, width, 3), RGB.
            scores: float (classes, height, width), in [0, 1], of the classes that the image holds. With no
                class nothing is counted.

        Raises:
            ValueError: the sizes differ, or the scores are not in [0, 1].
        """
        scores = np.asarray(scores, np.float32)
        if scores.ndim != 3 or scores.shape[1:] != np.shape(image)[:2]:
            raise ValueError(
                "`scores` must be (classes, height, width) of the size of the image. "
                f"Received: {scores.shape} for an image of {np.shape(image)}."
            )
        if not len(scores):
            return
        before = [
            np.moveaxis(np.concatenate([np.full_like(scores[:1], threshold), scores]), 0, 2)
            for threshold in self.thresholds
        ]
        crf = DenseCRF(image, reduction=max(1, min(scores.shape[1:]) // _SIDE))
        after = crf.infer([unary_from_probabilities(each) for each in before])
        for index, (given, refined) in enumerate(zip(before, after, strict=True)):
            given, refined = given.argmax(axis=2), refined.argmax(axis=2)
            same, things, kept = given == refined, given > 0, refined > 0
            self._counts[index] += [same.sum(), things.sum(), kept.sum(), same.size]
        strongest = scores.max(axis=0)
        self._strongest += [strongest.size, round(strongest.sum(dtype=np.float64) * _MICRO)]

    def __add__(self, other):
        if not np.array_equal(self.thresholds, other.thresholds):
            raise ValueError("Only agreements at the same thresholds add up.")
        total = ThresholdAgreement(self.thresholds)
        total._counts = self._counts + other._counts
        total._strongest = self._strongest + other._strongest
        return total

    @property
    def pixels(self):
        """Number of pixels of the images with a class."""
        return int(self._strongest[0])

    def values(self):
        """Cohen's kappa of the masks before and after, for each threshold; at most 1."""
        same, before, after = (self._counts[:, :3] / np.maximum(self._counts[:, 3:], 1)).T
        chance = before * after + (1 - before) * (1 - after)
        return (same - chance) / np.maximum(1 - chance, 1e-9)

    def mean_score(self):
        """Mean of the strongest class score over all pixels, or None where no image had a class."""
        return float(self._strongest[1] / self._strongest[0] / _MICRO) if self.pixels else None

    def choose(self):
        """The chosen threshold and the rule that chose it.

        Returns:
            `(threshold, rule)`: of the best agreement, "agreement"; where that is at either end
            `mean_score()`, "mean score"; where no image had a class `(None, "")`.
        """
        if not self.pixels:
            return None, ""
        best = int(self.values().argmax())
        if 0 < best < self.thresholds.size - 1:
            return float(self.thresholds[best]), "agreement"
        return self.mean_score(), "mean score"
