"""Does refinement help? mIoU of the masks with none, PAMR and the dense CRF, on the same scores.

Claim: none of its own; the table says what each refinement is worth, at the background threshold that
`--background_threshold auto` takes and at its best one (chosen with the true masks: an upper bound).

    python -m benchmarks.real_photographs --output study          # first: networks, and their scores
    python -m benchmarks.refinement_quality study/msrc_v2-*
    python -m benchmarks.refinement_quality --quick               # one network on drawn scenes

Each folder is a run directory of `benchmarks.real_photographs`, whose scores are those of the training split.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import real_photographs
from wsss.data.records import open_collection
from wsss.layout import decode_scores
from wsss.metrics import ThresholdSweep, confusion_matrix, counts_of, mean_iou
from wsss.refine.auto_threshold import ThresholdAgreement
from wsss.refine.dense_crf import DenseCRF, unary_from_labels
from wsss.seeds import background_scores, mask_from_scores

CRF_THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
SCORES = "masks-none-0.2/scores"


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="run directories of benchmarks.real_photographs")
    parser.add_argument("--quick", action="store_true", help="drawn scenes and a small network, two epochs")
    options = parser.parse_args(argv)
    if not options.runs and not options.quick:
        parser.error("name the run directories, or give --quick")
    print("| run | auto threshold | none: auto / best | PAMR: auto / best | CRF: auto / best |")
    print("|---|---|---|---|---|")
    for run in options.runs:
        show(run, run.parent / run.name.split("-")[0])
    if options.quick:
        with tempfile.TemporaryDirectory() as scratch:
            real_photographs.quick_rows(Path(scratch))
            show(Path(scratch) / "SEAM", Path(scratch) / "drawn")
    return 0


def show(run, shards):
    """Prints the row of one run."""
    collection = open_collection(str(shards))
    scenes = list(read_scenes(run / SCORES, collection))
    automatic = automatic_threshold(scenes)
    classes = len(collection.class_names)
    cells = [f"{automatic:.2f}"]
    cells.append(sweep_cell(((r, s, k) for r, s, k in scenes), classes, automatic))
    cells.append(sweep_cell(((r, pamr(r.image, s), k) for r, s, k in scenes), classes, automatic))
    cells.append(crf_cell(scenes, classes, automatic))
    print(f"| {run.name} | " + " | ".join(cells) + " |", flush=True)


def read_scenes(folder, collection):
    """`(record, scores (classes, height, width), keys)` of each image of the training split."""
    for record in collection.read("train"):
        scores, keys = decode_scores((folder / f"{record.image_id}.npz").read_bytes())
        yield record, scores, keys


def automatic_threshold(scenes):
    """What `--background_threshold auto` takes, from every third image."""
    agreement = ThresholdAgreement()
    for record, scores, _ in scenes[::3]:
        agreement.update(record.image, np.clip(scores, 0, 1))
    return agreement.choose()[0]


def pamr(image, scores):
    """The scores after PAMR."""
    from wsss.transforms.refine import pamr_of_any_size

    if not len(scores):
        return scores
    images = image[None].astype(np.float32) / 255
    refined = pamr_of_any_size(iterations=10)(images, np.moveaxis(scores, 0, -1)[None])
    return np.ascontiguousarray(np.moveaxis(refined.numpy()[0], -1, 0))


def sweep_cell(scenes, classes, automatic):
    """mIoU at the automatic and at the best threshold, where a mask is the scores against the threshold."""
    sweep = ThresholdSweep(classes + 1)
    at_automatic = np.zeros((classes + 1, classes + 2), np.int64)
    for record, scores, keys in scenes:
        sweep.update(scores, keys, record.mask)
        mask = mask_from_scores(scores, keys, background_scores(scores, threshold=automatic))
        at_automatic = at_automatic + confusion_matrix(record.mask, mask, classes + 1)
    threshold, best = sweep.best()
    return f"{100 * mean_iou(counts_of(at_automatic)):.1f} / {100 * best:.1f} at {threshold:.2f}"


def crf_cell(scenes, classes, automatic):
    """The same for the dense CRF of the labels at each threshold; all share the lattice of the image."""
    thresholds = (automatic, *CRF_THRESHOLDS)
    confusions = [np.zeros((classes + 1, classes + 2), np.int64) for _ in thresholds]
    for record, scores, keys in scenes:
        for index, mask in enumerate(crf_masks(record.image, scores, keys, thresholds)):
            confusions[index] = confusions[index] + confusion_matrix(record.mask, mask, classes + 1)
    at_automatic, *others = (mean_iou(counts_of(confusion)) for confusion in confusions)
    best = int(np.argmax(others))
    return f"{100 * at_automatic:.1f} / {100 * others[best]:.1f} at {CRF_THRESHOLDS[best]:.2f}"


def crf_masks(image, scores, keys, thresholds):
    """The mask at each threshold after the CRF with the pipeline's default constants."""
    size = image.shape[:2]
    if not len(scores):
        return [np.zeros(size, np.uint8) for _ in thresholds]
    unaries = []
    for threshold in thresholds:
        stacked = np.concatenate([np.full((1, *size), threshold, np.float32), scores])
        unaries.append(unary_from_labels(stacked.argmax(axis=0), len(stacked)))
    names = np.array([0, *(key + 1 for key in keys)], np.uint8)
    return [names[refined.argmax(axis=-1)] for refined in DenseCRF(image, "ppc").infer(unaries)]


if __name__ == "__main__":
    sys.exit(main())
