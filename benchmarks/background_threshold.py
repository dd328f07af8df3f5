"""Rules that choose a background threshold without any mask, and how far each lands from the best one.

    python -m benchmarks.background_threshold --labels LABELS … --truth COLLECTION … [--split train]
    python -m benchmarks.background_threshold --quick

LABELS are outputs of `pipelines/pseudo_labels.py --save_scores`, one for each COLLECTION. The baseline is the
best of 60 thresholds on the truth; `lost` is what a rule's threshold lacks to it, in points of mIoU. `mean`
is what `--background_threshold auto` takes for a collection. The kappa is of every third image.

A second table has rules that give each image a threshold of its own: the gain over the collection's `mean`, a
column a collection, drawn scenes with blurred masks for scores the last. Below it stands, for each
collection, the rule that is best on the mean of the others, and what that gains here. `--quick` takes the
drawn scenes alone.
"""

import argparse
import functools
import tempfile

import numpy as np

from wsss.common import io
from wsss.data.dataset import open_collection
from wsss.inference.cam_scores import mask_from_scores, otsu_threshold
from wsss.metrics import THRESHOLDS, ThresholdSweep, confusion_matrix, counts_of, mean_iou
from wsss.pipeline.output import Layout, decode_scores
from wsss.refine import DenseCRF, unary_from_probabilities

BINS = 1000
LABELED_AT = np.arange(4, 78, 4) / 100  # thresholds whose masks are compared before and after the CRF
VALUES = (np.arange(BINS + 1) + 0.5) / BINS


def main(argv=None):
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.background_threshold", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--labels", nargs="*", default=[])
    parser.add_argument("--truth", nargs="*", default=[])
    parser.add_argument("--split", default="train")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(argv)
    gains = {}
    for labels, truth in zip(options.labels, options.truth, strict=True):
        collection = open_collection(truth)
        classes = len(collection.class_names) + 1
        read = functools.partial(_scored_images, labels, collection, options.split)
        print(labels)
        _print_table(read(), classes)
        gains[labels] = _gains_per_image(read, classes)
    with tempfile.TemporaryDirectory() as folder:
        drawn = list(_drawn_images(folder))
    if not options.labels:
        _print_table(drawn, 5)
    gains["drawn scenes"] = _gains_per_image(lambda: drawn, 5)
    _print_gains(gains)
    return 0


def _shrunk(weight):
    return lambda otsu, mean: weight * otsu + (1 - weight) * mean


def _auto(otsu, mean):
    return min(_shrunk(0.75)(otsu, mean), 1.5 * mean)


def _half_and(constant):
    return lambda otsu, mean: otsu / 2 + constant


PER_IMAGE = {  # of an image's own Otsu threshold and the collection's mean
    **{f"{weight:g} Otsu + {1 - weight:g} mean": _shrunk(weight) for weight in (0.25, 0.5, 0.75, 1.0)},
    "auto: 0.75, <= 1.5 mean": _auto,
    **{f"half Otsu + {constant:g}": _half_and(constant) for constant in (0.06, 0.09, 0.12, 0.15)},
}


def _gains_per_image(read, classes):
    """mIoU of the rules in `PER_IMAGE` over that of the collection's threshold, in points, by name.

    Args:
        read: function without arguments that gives the images, called twice.
        classes: number of classes with the background.
    """
    pixels = total = 0.0
    for _, scores, class_ids, _ in read():
        if len(class_ids):
            total += scores.max(axis=0).sum(dtype=np.float64)
            pixels += scores[0].size
    mean = total / pixels
    rules = {"mean": lambda otsu, mean: mean, **PER_IMAGE}
    counts = dict.fromkeys(rules, 0)
    for _, scores, class_ids, truth in read():
        otsu = otsu_threshold(scores.max(axis=0)) if len(class_ids) else mean
        for name, rule in rules.items():
            background = np.full(truth.shape, rule(otsu, mean), np.float32)
            mask = mask_from_scores(scores, class_ids, background)
            counts[name] = counts[name] + confusion_matrix(truth, mask, classes)
    miou = {name: 100 * float(mean_iou(counts_of(each), "skip")) for name, each in counts.items()}
    return {name: miou[name] - miou["mean"] for name in PER_IMAGE}


def _print_gains(gains):
    names = list(gains)
    print(f"\n{'threshold of each image':24} {'  '.join(f'{name[-16:]:>16}' for name in names)}")
    for rule in PER_IMAGE:
        print(f"{rule:24} {'  '.join(f'{gains[name][rule]:+16.2f}' for name in names)}")
    for left in names if len(names) > 1 else ():
        others = [name for name in names if name != left]
        best = max(PER_IMAGE, key=lambda rule: np.mean([gains[name][rule] for name in others]))
        print(f"without {left[-16:]:16} {best}: {gains[left][best]:+.2f} there")


def _print_table(images, classes):
    sweep = ThresholdSweep(classes)
    histogram = np.zeros(BINS + 1)
    contrast, length = np.zeros((2, THRESHOLDS.size + 1))
    agreement = np.zeros((LABELED_AT.size, 4), np.int64)
    for position, (image, scores, class_ids, truth) in enumerate(images):
        sweep.update(scores, class_ids, truth)
        if len(class_ids):
            strongest = scores.max(axis=0)
            histogram += np.bincount((strongest * BINS).astype(int).ravel(), minlength=BINS + 1)
            for total, added in zip((contrast, length), _contours(image, strongest), strict=True):
                total += added
            if position % 3 == 0:
                agreement += _agreement(image, np.clip(scores, 0, 1))
    curve = 100 * mean_iou(sweep.counts())
    best, fractions = int(curve.argmax()), histogram / histogram.sum()
    chosen = {name: rule(fractions) for name, rule in RULES.items()}
    across = contrast.cumsum()[:-1] / np.maximum(length.cumsum()[:-1], 1)
    chosen["contrast across the contour"] = float(THRESHOLDS[across.argmax()])
    chosen["kappa before and after CRF"] = float(LABELED_AT[_kappa(agreement).argmax()])
    print(f"best threshold {THRESHOLDS[best]:.2f}, mIoU {curve[best]:.2f} %")
    print(f"{'rule':30} threshold   mIoU   lost")
    for name, threshold in chosen.items():
        index = int(np.abs(THRESHOLDS - threshold).argmin())
        print(f"{name:30} {threshold:9.2f} {curve[index]:6.2f} {curve[best] - curve[index]:6.2f}")


def _mean(fractions):
    return (fractions * VALUES).sum()


def _quantile_rule(foreground):
    return lambda fractions: VALUES[np.searchsorted(fractions.cumsum(), 1 - foreground)]


def _otsu(fractions):
    """The largest variance between the two parts."""
    weight, mean = fractions.cumsum(), (fractions * VALUES).cumsum()
    between = (mean[-1] * weight - mean) ** 2 / np.maximum(weight * (1 - weight), 1e-12)
    return VALUES[between.argmax()]


def _halfway(fractions):
    """Half-way between the means of the two parts (isodata)."""
    return _iterate(fractions, lambda below, above: (below + above) / 2)


def _cross_entropy(fractions):
    """The least cross entropy of the two parts to their means (Li & Lee)."""
    return _iterate(fractions, lambda below, above: (above - below) / (np.log(above) - np.log(below)))


def _iterate(fractions, rule):
    threshold = _mean(fractions)
    for _ in range(50):
        below, above = threshold >= VALUES, threshold < VALUES
        means = [(fractions * VALUES)[part].sum() / fractions[part].sum() for part in (below, above)]
        threshold = rule(*means)
    return threshold


def _entropy(fractions):
    """The largest sum of the entropies of the two parts (Kapur)."""
    weight = fractions.cumsum()
    entropy = -(fractions * np.log(np.maximum(fractions, 1e-12))).cumsum()
    inside = (weight > 1e-9) & (weight < 1 - 1e-9)
    total = np.full(fractions.shape, -np.inf)
    w, e = weight[inside], entropy[inside]
    total[inside] = np.log(w * (1 - w)) + e / w + (entropy[-1] - e) / (1 - w)
    return VALUES[total.argmax()]


RULES = {
    "constant 0.2": lambda fractions: 0.2,
    "constant 0.26 (SEAM)": lambda fractions: 0.26,
    "mean": _mean,
    "median": _quantile_rule(0.5),
    "35 % foreground": _quantile_rule(0.35),
    "Otsu": _otsu,
    "half-way between means": _halfway,
    "cross entropy": _cross_entropy,
    "entropy": _entropy,
}


def _contours(image, strongest):
    """What an image adds to (contrast, length) of the contours of all thresholds, as difference arrays."""
    below = np.searchsorted(THRESHOLDS, strongest)
    added = np.zeros((2, THRESHOLDS.size + 1))
    for axis in (0, 1):
        first, second = (np.moveaxis(below, axis, 0)[part] for part in (np.s_[:-1], np.s_[1:]))
        colors = np.moveaxis(image.astype(int), axis, 0)
        difference = np.abs(np.diff(colors, axis=0)).sum(axis=-1)
        for total, weights in zip(added, (difference, np.ones_like(difference)), strict=True):
            np.add.at(total, np.minimum(first, second), weights)
            np.subtract.at(total, np.maximum(first, second), weights)
    return added


def _agreement(image, scores):
    """Pixels of one label before and after the CRF, of objects before, after, and all; a row a threshold.

    The CRF moves the borders of a mask to the edges of the image: where the threshold is right it might
    change least.
    """
    size = (1, *scores.shape[1:])
    stacked = [np.concatenate([np.full(size, each, np.float32), scores]) for each in LABELED_AT]
    crf = DenseCRF(image, reduction=max(1, min(scores.shape[1:]) // 128))
    refined = crf.infer([unary_from_probabilities(np.moveaxis(each, 0, 2)) for each in stacked])
    rows = []
    for given, after in zip(stacked, refined, strict=True):
        given, after = given.argmax(axis=0), after.argmax(axis=2)
        rows.append([(given == after).sum(), (given > 0).sum(), (after > 0).sum(), given.size])
    return np.array(rows, np.int64)


def _kappa(counts):
    """Cohen's kappa: the agreement beyond what chance gives two masks of so much background."""
    same, before, after = (counts[:, :3] / np.maximum(counts[:, 3:], 1)).T
    chance = before * after + (1 - before) * (1 - after)
    return (same - chance) / np.maximum(1 - chance, 1e-9)


def _scored_images(labels, collection, split):
    layout = Layout(labels)
    for record in collection.read(split):
        path = layout.scores(record.image_id)
        if io.exists(path):
            yield record.image, *decode_scores(io.read_bytes(path)), record.mask


def _drawn_images(folder):
    """Scenes whose scores are their true masks, blurred and stretched, with some noise."""
    from scipy.ndimage import gaussian_filter

    from wsss.data.synthetic import write_synthetic_collection

    rng = np.random.default_rng(0)
    collection = write_synthetic_collection(folder, images=40, size=64, classes=4)
    for record in collection.read("train"):
        noise = gaussian_filter(rng.random((len(record.labels), 64, 64)), (0, 6, 6))
        objects = [gaussian_filter((record.mask == label + 1) * 1.0, 5) for label in record.labels]
        scores = np.array(objects).reshape(noise.shape) + 2 * noise
        if len(scores):
            low, high = scores.min(axis=(1, 2), keepdims=True), scores.max(axis=(1, 2), keepdims=True)
            scores = (scores - low) / (high - low)
        yield record.image, scores.astype(np.float32), record.labels, record.mask


if __name__ == "__main__":
    raise SystemExit(main())
