"""What `--refine auto` chooses, and what the choice gains or loses against no refinement and the best one.

    python -m benchmarks.refinement_choice --labels LABELS --truth COLLECTION [--split train] [--images N]
    python -m benchmarks.refinement_choice --quick

LABELS is the output of `pipelines/pseudo_labels.py --save_scores`. PAMR, the CRF and, as a refinement that
does harm, a walk without regard to the image (a wide blur) refine the scores; the choice sees no true mask. A
row is the whole collection or a random part of it. `--quick` runs on drawn scenes with blurred masks for
scores. The baseline is no refinement.
"""

import argparse
import itertools
import tempfile

import numpy as np
from scipy.ndimage import uniform_filter

from benchmarks.background_threshold import _drawn_images, _scored_images
from wsss.data.dataset import open_collection
from wsss.inference.cam_scores import mask_from_scores
from wsss.metrics import confusion_matrix, counts_of, mean_iou
from wsss.pipeline.stages.refine import ScoredImage, Unrefined, pamr_of_any_size
from wsss.pipeline.stages.refinement_choice import (
    RefinementEvidence,
    choose_refinement,
    measure_refinement,
)
from wsss.refine import DenseCRF, unary_from_labels

NAMES = ("none", "pamr", "crf", "walk")


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.refinement_choice", description=__doc__.splitlines()[0])
    parser.add_argument("--labels", default="")
    parser.add_argument("--truth", default="")
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=None)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(argv)
    if options.labels:
        collection = open_collection(options.truth)
        classes = len(collection.class_names) + 1
        images = _scored_images(options.labels, collection, options.split)
        return print_table(list(itertools.islice(images, options.images)), classes)
    with tempfile.TemporaryDirectory() as folder:
        return print_table(list(itertools.islice(_drawn_images(folder), 24)), 5)


def print_table(images, classes):
    """Prints what is chosen for a collection and for parts of it, and the mIoU of each refinement.

    Args:
        images: tuples of image, scores, class ids and true mask.
        classes: number of classes with the background.
    """
    counts, confusion = measure(images, classes)
    print(f"{'images':>14}  chosen   {'  '.join(f'{name:>5}' for name in NAMES)}   over none  under best")
    order = np.random.default_rng(0).permutation(len(images))
    parts = [("all", order)]
    parts += [(f"half {index + 1}", part) for index, part in enumerate(np.array_split(order, 2))]
    parts += [(f"tenth {index + 1}", part) for index, part in enumerate(np.array_split(order, 10))]
    for title, part in parts:
        evidence = {
            name: RefinementEvidence.of(counts[part, index].sum(axis=0)) for index, name in enumerate(NAMES)
        }
        chosen, reason = choose_refinement(evidence)
        each = [100 * float(mean_iou(counts_of(total), "skip")) for total in confusion[part].sum(axis=0)]
        taken = each[NAMES.index(chosen)]
        numbers = "  ".join(f"{value:5.1f}" for value in each)
        gain, lost = taken - each[0], max(each) - taken
        print(f"{title:>8} {len(part):5}  {chosen:6}   {numbers}   {gain:9.1f}  {lost:10.1f}")
        if title == "all":
            print(f"{'':14}  {reason}")
    return 0


def measure(images, classes):
    """Evidence `(images, refinements, 5)` and confusion matrices `(images, refinements, …)` of all masks."""
    strongest = [scores.max(axis=0) for _, scores, class_ids, _ in images if len(class_ids)]
    threshold = sum(each.sum(dtype=np.float64) for each in strongest) / sum(each.size for each in strongest)
    counts, confusion = [], []
    for image, scores, class_ids, truth in images:
        masks = refine(image, scores, tuple(map(int, class_ids)), threshold)
        before = Unrefined(masks[0], scores.max(axis=0)) if len(class_ids) else None
        scored = ScoredImage(None, tuple(class_ids), scores, np.zeros(0), unrefined=before)
        counts.append([measure_refinement(scored._replace(mask=mask), image) for mask in masks])
        confusion.append([confusion_matrix(truth, mask, classes) for mask in masks])
    return np.array(counts), np.array(confusion)


def refine(image, scores, class_ids, threshold):
    """The masks of one image, as in `NAMES`."""
    background = np.full(scores.shape[1:], threshold, np.float32)
    plain = mask_from_scores(scores, class_ids, background)
    if not class_ids:
        return [plain] * len(NAMES)
    labels = np.array([0, *(class_id + 1 for class_id in class_ids)], np.uint8)
    stacked = np.concatenate([background[None], scores])
    batch = image[None].astype(np.float32) / 255, np.moveaxis(scores, 0, -1)[None]
    averaged = np.moveaxis(pamr_of_any_size(10)(*batch).numpy()[0], -1, 0)
    crf = DenseCRF(image, "ppc").infer(unary_from_labels(stacked.argmax(axis=0), len(stacked)))
    side = max(image.shape[:2]) // 2
    blurred = uniform_filter(uniform_filter(stacked, (0, side, side)), (0, side, side))
    return [
        plain,
        mask_from_scores(averaged, class_ids, background),
        labels[crf.argmax(axis=-1)],
        labels[blurred.argmax(axis=0)],
    ]


if __name__ == "__main__":
    raise SystemExit(main())
