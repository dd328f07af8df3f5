"""Does refinement help? mIoU of the masks with none, PAMR and dense CRFs, on the same scores.

The table says what each refinement is worth, at the background threshold that `--background_threshold auto`
takes and at its best one (chosen with the true masks: an upper bound): mIoU in % on the training split, mean
and standard deviation over the runs that differ in nothing but their seed.

    python -m benchmarks.real_photographs --output study --seeds 0,1,2    # first: networks and their scores
    python -m benchmarks.refinement_quality study/msrc_v2-* [--overlays FOLDER]
    python -m benchmarks.refinement_quality --quick                       # one network on drawn scenes

Each folder is a run directory of `benchmarks.real_photographs`, whose scores are those of the training split.
Overlays show an image, its truth, and its masks at the best threshold of each row of the table.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import real_photographs
from wsss.data.dataset import open_collection
from wsss.metrics import confusion_matrix, counts_of, mean_iou
from wsss.pipeline.output import decode_scores
from wsss.refine import DenseCRF, unary_from_labels
from wsss.visualization import overlay, side_by_side

THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
SCORES = "masks-none-0.2/scores"
OVERLAYS = 8  # images, evenly spaced over the split


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="run directories of benchmarks.real_photographs")
    parser.add_argument("--overlays", type=Path, help="folder for pictures of the first run")
    parser.add_argument("--quick", action="store_true", help="drawn scenes and a small network, two epochs")
    options = parser.parse_args(argv)
    if not options.runs and not options.quick:
        parser.error("name the run directories, or give --quick")
    with tempfile.TemporaryDirectory() as scratch:
        if options.quick:
            real_photographs.quick_rows(Path(scratch))
            runs = {"SEAM, drawn scenes": [(Path(scratch) / "SEAM", Path(scratch) / "drawn")]}
        else:
            runs = {}
            for run in options.runs:
                setting, _, _ = run.name.rpartition("-")
                runs.setdefault(setting, []).append((run, run.parent / run.name.split("-")[0]))
        print("| run | seeds | refinement | at the automatic threshold | at the best | best at |")
        print("|---|---|---|---|---|---|")
        for setting, members in runs.items():
            show(setting, [Comparison(*member) for member in members])
        if options.overlays:
            draw(Comparison(*next(iter(runs.values()))[0]), options.overlays)
    return 0


class Comparison:
    """All refinements of one run's scores.

    Args:
        run: run directory with scores.
        shards: folder of its collection.
    """

    def __init__(self, run, shards):
        collection = open_collection(str(shards))
        self._classes = len(collection.class_names) + 1
        self.scenes = list(read_scenes(run / SCORES, collection))
        self.automatic = automatic_threshold(self.scenes)
        self._thresholds = (*THRESHOLDS, self.automatic)
        self._confusions = {}
        for record, scores, class_ids in self.scenes:
            for name, refine in REFINEMENTS.items():
                for threshold, mask in zip(
                    self._thresholds, refine(record.image, scores, class_ids, self._thresholds), strict=True
                ):
                    added = confusion_matrix(record.mask, mask, self._classes)
                    key = name, threshold
                    self._confusions[key] = self._confusions.get(key, 0) + added

    def miou(self, name, threshold):
        """In %."""
        return 100 * mean_iou(counts_of(self._confusions[name, threshold]))

    def best(self, name):
        """The threshold of the highest mIoU."""
        return max(THRESHOLDS, key=lambda threshold: self.miou(name, threshold))


def show(setting, comparisons):
    """Prints a row a refinement."""
    for name in REFINEMENTS:
        automatic = [each.miou(name, each.automatic) for each in comparisons]
        best = [each.best(name) for each in comparisons]
        highest = [each.miou(name, threshold) for each, threshold in zip(comparisons, best, strict=True)]
        spread = real_photographs.spread
        print(
            f"| {setting} | {len(comparisons)} | {name} | {spread(automatic)} | {spread(highest)} | "
            f"{statistics.mean(best):.2f} |",
            flush=True,
        )


def draw(comparison, folder):
    """Writes a picture an image: the image, its truth, and its masks."""
    folder.mkdir(parents=True, exist_ok=True)
    step = max(1, len(comparison.scenes) // OVERLAYS)
    for record, scores, class_ids in comparison.scenes[::step][:OVERLAYS]:
        masks = [record.mask]
        for name, refine in REFINEMENTS.items():
            masks += refine(record.image, scores, class_ids, [comparison.best(name)])
        picture = side_by_side([record.image, *(overlay(record.image, mask) for mask in masks)])
        (folder / f"{Path(record.image_id).name}.png").write_bytes(picture)


def read_scenes(folder, collection):
    """`(record, scores (classes, height, width), class_ids)` of each image of the training split."""
    for record in collection.read("train"):
        scores, class_ids = decode_scores((folder / f"{record.image_id}.npz").read_bytes())
        yield record, scores, class_ids


def automatic_threshold(scenes):
    """What `--background_threshold auto` takes: the mean of the strongest scores."""
    strongest = [scores.max(axis=0).ravel() for _, scores, _ in scenes if len(scores)]
    return float(np.concatenate(strongest).mean(dtype=np.float64))


def unrefined(image, scores, class_ids, thresholds):
    """The mask at each threshold."""
    return [named(label, class_ids) for label in labels(scores, thresholds)]


def pamr(image, scores, class_ids, thresholds):
    """The mask at each threshold, of scores after PAMR."""
    from wsss.pipeline.stages.refine import pamr_of_any_size

    if len(scores):
        images = image[None].astype(np.float32) / 255
        refined = pamr_of_any_size(iterations=10)(images, np.moveaxis(scores, 0, -1)[None])
        scores = np.moveaxis(refined.numpy()[0], -1, 0)
    return unrefined(image, scores, class_ids, thresholds)


def crf(preset):
    """The CRF of the labels at each threshold, as in the pipeline; all use the same lattice of the image."""

    def refine(image, scores, class_ids, thresholds):
        if not len(scores):
            return unrefined(image, scores, class_ids, thresholds)
        unaries = [unary_from_labels(label, len(scores) + 1) for label in labels(scores, thresholds)]
        outputs = DenseCRF(image, preset).infer(unaries)
        return [named(refined.argmax(axis=-1), class_ids) for refined in outputs]

    return refine


def labels(scores, thresholds):
    """The strongest row of `scores` at each pixel, 0 for the background."""
    size = (1, *scores.shape[1:])
    return [np.concatenate([np.full(size, t, np.float32), scores]).argmax(axis=0) for t in thresholds]


def named(label, class_ids):
    """Rows of the scores -> labels of the mask."""
    return np.array([0, *(class_id + 1 for class_id in class_ids)], np.uint8)[label]


REFINEMENTS = {
    "none": unrefined,
    "PAMR": pamr,
    "CRF, preset ppc": crf("ppc"),
    "CRF, preset deeplab": crf("deeplab"),
}


if __name__ == "__main__":
    sys.exit(main())
