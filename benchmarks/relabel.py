"""Masks from stored scores (`wsss.relabel`) against masks by the model (`pseudo_labels`), whole commands.

    python -m benchmarks.relabel [--model RUN] [--data COLLECTION] [--split train]
    python -m benchmarks.relabel --quick

Each command is a process of its own, so that its start counts too; its CPU time hardly depends on what else
the machine does. The masks of both must be the same, to the byte. Without `--model` and `--data` an untrained
SEAM with a MobileNetV2 labels drawn scenes of 384 pixels; `--quick` takes few small ones and a tiny network,
and shows that it works more than how fast it is.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wsss.common.tf_import import import_tensorflow
from wsss.data.dataset import open_collection
from wsss.data.synthetic import write_synthetic_collection

AS_STORED = "as stored"
CHANGES = {  # the first stores the scores
    AS_STORED: ("--save_scores",),
    "threshold 0.3": ("--background_threshold", "0.3"),
    "threshold auto": ("--background_threshold", "auto"),
    "PAMR": ("--refine", "pamr"),
    "CRF": ("--refine", "crf"),
}


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.relabel", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="")
    parser.add_argument("--data", default="")
    parser.add_argument("--split", default="train")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        model, data = options.model, options.data
        if not (model and data):
            model, data = draw(Path(folder), options.quick)
        images = open_collection(data).split_sizes[options.split]
        job = ("--model", model, "--data", data, "--split", options.split, "--output")
        print(f"{images} images; seconds, and those of the CPU\n")
        print(f"{'masks':<16}{'pseudo_labels':>20}{'relabel':>20}{'times':>14}")
        for name, flags in CHANGES.items():
            by_model, anew = (Path(folder, kind, name) for kind in ("by_model", "anew"))
            stored = Path(folder, "by_model", AS_STORED)
            baseline = timed("pseudo_labels", *job, str(by_model), *flags)
            of_masks = [flag for flag in flags if flag != "--save_scores"]
            candidate = timed("relabel", str(stored), "--output", str(anew), *of_masks)
            if masks(by_model) != masks(anew):
                raise SystemExit(f"{name}: the masks differ.")
            ratios = [each / other for each, other in zip(baseline, candidate, strict=True)]
            columns = (f"{wall:.1f} ({cpu:.1f})" for wall, cpu in (baseline, candidate, ratios))
            print(f"{name:<16}{next(columns):>20}{next(columns):>20}{next(columns):>14}", flush=True)
            if options.quick:
                break
    return 0


def draw(folder, quick):
    """Writes a collection of scenes, and an untrained SEAM; returns both paths."""
    import_tensorflow()
    import keras

    from wsss.backbones.applications import build_backbone
    from wsss.backbones.tiny import small_backbone
    from wsss.models.seam import SEAM

    images, size = (20, 64) if quick else (160, 384)
    collection = write_synthetic_collection(str(folder / "data"), images=images, size=size)
    keras.utils.set_random_seed(0)
    backbone = small_backbone(width=8) if quick else build_backbone("MobileNetV2", weights=None)
    seam = SEAM.from_backbone(backbone, len(collection.class_names))
    seam.save(folder / "model.keras")
    return str(folder / "model.keras"), collection.directory


def timed(program, *arguments):
    """Seconds that a command takes, and seconds of the CPU."""
    start, before = time.perf_counter(), os.times()
    command = [sys.executable, "-m", f"wsss.{program}", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, cpu


def masks(folder):
    """The masks in an output by name."""
    return {path.name: path.read_bytes() for path in (folder / "masks").iterdir()}


if __name__ == "__main__":
    raise SystemExit(main())
