"""Which scales and mirrors pay for themselves: mIoU of the CAMs against the FLOPs of the network.

Claim: the default of `--scales` is the cheapest of the sets below whose masks are within half a point of the
best. Every scale and mirror is predicted once; each set then sums its own. mIoU is in % at the best threshold
of the sweep, on the training split, with the image labels given and no refinement; GFLOP are what TensorFlow
counts for a photograph of 375 x 500.

    python -m benchmarks.real_photographs --output study          # first: networks
    python -m benchmarks.scales study/msrc_v2-*-SEAM-*            # the mean of runs of one collection
    python -m benchmarks.scales --quick                           # one network on drawn scenes
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import wsss.models  # noqa: F401  so that `.keras` files load
from benchmarks import real_photographs
from wsss.data.dataset import open_collection
from wsss.inference.cam_scores import merge_scales, normalize_scores, scaled_size
from wsss.inference.predictor import CamPredictor
from wsss.metrics import ThresholdSweep

SETS = {
    "0.5": (0.5,),
    "1": (1.0,),
    "1.5": (1.5,),
    "2": (2.0,),
    "0.5, 1": (0.5, 1.0),
    "1, 1.5": (1.0, 1.5),
    "1, 2": (1.0, 2.0),
    "0.5, 1, 1.5": (0.5, 1.0, 1.5),
    "0.5, 1, 2": (0.5, 1.0, 2.0),
    "1, 1.5, 2": (1.0, 1.5, 2.0),
    "0.5, 1, 1.5, 2": (0.5, 1.0, 1.5, 2.0),
}
SCALES = (0.5, 1.0, 1.5, 2.0)
PHOTOGRAPH = (375, 500)


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="run directories of benchmarks.real_photographs")
    parser.add_argument("--images", type=int, default=0, help="of the training split; 0: all")
    parser.add_argument("--quick", action="store_true", help="drawn scenes and a small network, two epochs")
    options = parser.parse_args(argv)
    if not options.runs and not options.quick:
        parser.error("name the run directories, or give --quick")
    if options.runs:
        tables = [sweeps(run, run.parent / run.name.split("-")[0], options.images) for run in options.runs]
        network = keras.models.load_model(options.runs[0] / "model.keras", compile=False).network
    else:
        with tempfile.TemporaryDirectory() as scratch:
            real_photographs.quick_rows(Path(scratch))
            tables = [sweeps(Path(scratch) / "SEAM", Path(scratch) / "drawn", 20)]
            network = keras.models.load_model(Path(scratch) / "SEAM" / "model.keras", compile=False).network
    show(tables, {scale: gflop(network, scaled_size(PHOTOGRAPH, scale)) for scale in SCALES})
    return 0


def sweeps(run, shards, limit):
    """`{(set, mirror): ThresholdSweep}` of one network over a collection."""
    collection = open_collection(str(shards))
    model = keras.models.load_model(run / "model.keras", compile=False)
    predictor = CamPredictor(model, scales=SCALES, mirror=False, cam="refined_cam")
    classes = len(collection.class_names) + 1
    table = {(name, mirror): ThresholdSweep(classes) for name in SETS for mirror in (False, True)}
    for index, record in enumerate(collection.read("train")):
        if limit and index >= limit:
            break
        class_ids = sorted(record.labels)
        plain, mirrored = (
            predictor.predict([np.ascontiguousarray(image)])[0]
            for image in (record.image, record.image[:, ::-1])
        )
        sizes = dict(zip(SCALES, plain.scaled_sizes, strict=True))
        maps = dict(zip(SCALES, (cams[class_ids] for cams in plain.cams), strict=True))
        both = {
            scale: maps[scale] + cams[class_ids, :, ::-1]
            for scale, cams in zip(SCALES, mirrored.cams, strict=True)
        }
        for (name, mirror), sweep in table.items():
            chosen = [(both if mirror else maps)[scale] for scale in SETS[name]]
            summed = merge_scales(chosen, [sizes[scale] for scale in SETS[name]], record.image.shape[:2])
            sweep.update(normalize_scores(summed), class_ids, record.mask)
    return table


def gflop(network, size):
    """Floating-point operations of one forward pass on one image, in 10^9, as TensorFlow counts them."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    spec = tf.TensorSpec((1, *size, 3), tf.float32)
    function = tf.function(lambda x: network(x, training=False), input_signature=[spec], autograph=False)
    graph = convert_variables_to_constants_v2(function.get_concrete_function()).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    return tf.compat.v1.profiler.profile(graph, options=options).total_float_ops / 1e9


def show(tables, cost):
    """Prints mean mIoU, threshold and cost of every set, the cheapest first."""
    rows = []
    for name, mirror in tables[0]:
        best = [table[name, mirror].best() for table in tables]
        rows.append(
            (
                sum(cost[scale] for scale in SETS[name]) * (2 if mirror else 1),
                name + (" and mirrors" if mirror else ""),
                100 * statistics.mean(miou for _, miou in best),
                statistics.mean(threshold for threshold, _ in best),
            )
        )
    rows.sort()
    highest = max(miou for _, _, miou, _ in rows)
    print("| scales | GFLOP | of the largest | mIoU | below the best | threshold |")
    print("|---|---|---|---|---|---|")
    for total, name, miou, threshold in rows:
        cost = total / rows[-1][0]
        print(f"| {name} | {total:.1f} | {cost:.0%} | {miou:.1f} | {highest - miou:.1f} | {threshold:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
