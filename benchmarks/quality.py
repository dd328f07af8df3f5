"""How well the quality score, which sees no truth, ranks images by the true IoU of their masks.

    python -m benchmarks.quality --labels LABELS --truth COLLECTION [--split train]
    python -m benchmarks.quality --quick

LABELS is the output of `pipelines/pseudo_labels.py`. The true IoU of an image is the mean over the background
and its classes. Printed are Spearman's rank correlations with it: of the score, of each of its parts alone,
and of the score without that part. The baseline is the fraction of background.
`--quick` runs on drawn scenes with blurred masks for scores.
"""

import argparse
import tempfile

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from wsss.common import io
from wsss.data.dataset import open_collection
from wsss.data.images import decode_mask
from wsss.data.records import Record
from wsss.inference.cam_scores import background_scores, mask_from_scores, view_agreement
from wsss.metrics import confusion_matrix, counts_of, iou
from wsss.pipeline.output import Layout
from wsss.pipeline.quality import ClassAreas, quality, quality_parts
from wsss.pipeline.stages.describe import DescribeSettings, describe_image
from wsss.pipeline.stages.manifest import read_rows
from wsss.pipeline.stages.read import InputImage
from wsss.pipeline.stages.refine import Background, ScoredImage


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--labels", default="")
    parser.add_argument("--truth", default="")
    parser.add_argument("--split", default="train")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(argv)
    if options.labels:
        pairs = list(_labeled_images(options.labels, open_collection(options.truth), options.split))
    else:
        with tempfile.TemporaryDirectory() as folder:
            pairs = list(_drawn_images(folder))
    print_table(*zip(*pairs, strict=True))
    return 0


def print_table(rows, true_iou):
    """Prints the correlations; returns that of the score.

    Args:
        rows: an `ImageRow` an image.
        true_iou: of each image, in [0, 1].
    """
    areas = ClassAreas()
    for row in rows:
        areas.add(row)
    means = areas.means()
    scores = np.array([quality(row, row.tags, means) for row in rows], float)
    parts = [quality_parts(row, row.tags, means) for row in rows]
    names = list(parts[0])
    known = np.array([[each.get(name, 1.0) for name in names] for each in parts])
    print(f"{len(rows)} images, mean true IoU {100 * np.mean(true_iou):.1f} %")
    print(f"{'':24} Spearman   without it")
    print(f"{'quality':24} {spearmanr(scores, true_iou)[0]:8.3f}")
    for index, name in enumerate(names):
        rest = np.prod(np.delete(known, index, axis=1), axis=1)
        alone = spearmanr(known[:, index], true_iou)[0] if np.ptp(known[:, index]) else 0.0
        print(f"{name:24} {alone:8.3f}   {spearmanr(rest, true_iou)[0]:8.3f}")
    background = [1 - row.foreground for row in rows]
    print(f"{'background (baseline)':24} {spearmanr(background, true_iou)[0]:8.3f}")
    return float(spearmanr(scores, true_iou)[0])


def image_iou(mask, truth, classes):
    """Mean IoU of one image over the background and its classes, 0-based."""
    size = int(max(mask[mask < 255].max(initial=0), truth[truth < 255].max(initial=0), *classes, 0)) + 2
    each = iou(counts_of(confusion_matrix(truth, mask, size)))
    return float(np.nanmean(each[[0, *(class_id + 1 for class_id in classes)]]))


def _labeled_images(labels, collection, split):
    """Pairs of row and true IoU of the images with tags."""
    layout = Layout(labels)
    rows = {row.image_id: row for path in layout.manifest_paths() for row in read_rows(path)}
    for record in collection.read(split):
        row = rows.get(record.image_id)
        if row is not None and row.fractions and row.tags:
            mask = decode_mask(io.read_bytes(layout.mask(record.image_id)))
            yield row, image_iou(mask, record.mask, row.tags)


def _drawn_images(folder):
    """Pairs of drawn scenes whose scores are their true masks, blurred, with noise of different strength."""
    from wsss.data.synthetic import write_synthetic_collection

    rng = np.random.default_rng(0)
    collection = write_synthetic_collection(folder, images=60, size=64, classes=4)
    for record in collection.read("train"):
        if record.labels:
            yield _drawn_image(record, rng)


def _drawn_image(record: Record, rng):
    size = (len(record.labels), 64, 64)
    objects = np.stack([gaussian_filter((record.mask == label + 1) * 1.0, 4) for label in record.labels])
    strength = rng.uniform(0.2, 3)
    views = [objects + strength * gaussian_filter(rng.random(size) - 0.5, (0, 5, 5)) for _ in range(2)]
    scores = np.maximum(sum(views), 0)
    scores = (scores / np.maximum(scores.max(axis=(1, 2), keepdims=True), 1e-6)).astype(np.float32)
    mask = mask_from_scores(scores, record.labels, background_scores(scores, threshold=0.35))
    classifier_scores = np.full(4, 0.9, np.float32)
    image = ScoredImage(
        InputImage("drawn", record, False), record.labels, scores, classifier_scores, mask=mask
    )
    settings = DescribeSettings(0.5, False, Background(0.35))
    row = describe_image(image._replace(agreement=view_agreement(*views)), settings)
    return row, image_iou(mask, record.mask, record.labels)


if __name__ == "__main__":
    raise SystemExit(main())
