"""All background thresholds in one pass against an argmax and a count of every class for each threshold.

    python -m benchmarks.threshold_sweep [--quick] [--rounds 5]

60 thresholds, 21 classes, two of them in the image. The baseline is what the released evaluation programs do:
scores placed among zeros, the threshold in channel 0, argmax, then three sums for each class. Both give the
same counts. CPU time of one thread, medians over interleaved rounds.
"""

import argparse
import sys

import numpy as np

from benchmarks.refinement import interleaved, smooth_scores, verdict
from wsss.metrics import THRESHOLDS, ThresholdSweep

CLASSES, CLASS_IDS = 21, (3, 14)


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.threshold_sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small image, few rounds")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    size = (94, 125) if options.quick else (375, 500)
    scores = np.ascontiguousarray(np.moveaxis(smooth_scores(0, size, 3)[..., 1:], 2, 0))
    values = np.array([0, *(class_id + 1 for class_id in CLASS_IDS), 255], np.uint8)
    truth = values[smooth_scores(1, size, 4).argmax(axis=2)]

    def one_pass():
        sweep = ThresholdSweep(CLASSES, THRESHOLDS)
        sweep.update(scores, CLASS_IDS, truth)
        return sweep.counts()

    ways = {"one_pass": one_pass, "repeated": lambda: _repeated_argmax(scores, truth)}
    for ours, expected in zip(*(way() for way in ways.values())):
        np.testing.assert_array_equal(ours, expected)
    medians = interleaved(ways, 2 if options.quick else options.rounds)
    ratio = medians["repeated"] / medians["one_pass"]
    print(f"{size[0]} x {size[1]}, {len(THRESHOLDS)} thresholds, counts equal")
    print(f"repeated argmax {1e3 * medians['repeated']:8.1f} ms")
    print(f"one pass        {1e3 * medians['one_pass']:8.2f} ms, {ratio:.0f} x ({verdict(ratio, 250, 900)})")
    return 0


def _repeated_argmax(scores, truth):
    """True positives, predicted and true pixels, each int64 (thresholds, classes)."""
    counts = np.zeros((3, len(THRESHOLDS), CLASSES), np.int64)
    placed = np.zeros((CLASSES, *truth.shape), np.float32)
    placed[np.asarray(CLASS_IDS) + 1] = scores
    known = truth != 255
    for index, threshold in enumerate(THRESHOLDS):
        placed[0] = threshold
        prediction = placed.argmax(axis=0)
        correct = (prediction == truth) & known
        for label in range(CLASSES):
            counts[0, index, label] = np.sum((truth == label) & correct)
            counts[1, index, label] = np.sum((prediction == label) & known)
            counts[2, index, label] = np.sum((truth == label) & known)
    return counts


if __name__ == "__main__":
    sys.exit(main())
