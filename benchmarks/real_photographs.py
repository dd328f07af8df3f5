"""Masks from tags on real photographs: SEAM and Pixel2Prototype against the plain classifier.

Claim: with the same network, data, budget and inference, both give better masks than the classifier trained
on the tags alone, and than a linear probe on the frozen network. Every row is prepare -> train -> pseudo
labels as a user would run them; values are mIoU in % on the split that was trained on, with the image labels
given, at a fixed background threshold and at the best one (which the true masks choose: an upper bound).

    python -m benchmarks.real_photographs --output study --seeds 0,1,2
    python -m benchmarks.real_photographs --quick      # drawn scenes, a small network, two epochs

What is done already is read, not run again, so that a study can be stopped and continued.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SHARED = Path(os.environ.get("WSSS_SHARED", Path(__file__).resolve().parents[2] / "shared"))
PROJECT = Path(__file__).resolve().parents[1]
# How each collection is trained. 72 photographs of 20 classes are too few to move 2.8 million weights: the
# network stays as it is there, and what is new learns by AdamW.
RECIPES = {
    "msrc_v2": ["--epochs=4"],
    "voc2012_mini148": [
        *("--epochs=20", "--optimizer=adamw", "--learning_rate=0.0001", "--new_layer_multiplier=50"),
        *("--frozen_fraction=1", "--image_size=320", "--long_side=384,640"),
    ],
}
BACKBONES = {
    "MobileNetEdgeTPU": ["--backbone", str(SHARED / "data/weights/mobilenet_edgetpu_imagenet_notop.keras")],
    "MobileNetV2": [
        "--backbone",
        "MobileNetV2",
        "--backbone_weights",
        str(SHARED / "data/weights/mobilenet_v2_imagenet_notop.weights.h5"),
    ],
}
MODELS = {
    "linear probe": ["--model=classifier", "--frozen_fraction=1"],
    "classifier": ["--model=classifier", "--frozen_fraction=0"],
    "SEAM": ["--model=seam"],
    "Pixel2Prototype": ["--model=pixel2prototype"],
    "Pixel2Prototype repaired": ["--model=pixel2prototype", "--contrast_variant=repaired"],
}


@dataclasses.dataclass(frozen=True)
class Study:
    """What is run: every combination of the lists."""

    output: Path
    data: tuple[str, ...]
    backbones: tuple[str, ...]
    models: tuple[str, ...]
    refinements: tuple[str, ...]
    thresholds: tuple[str, ...]
    seeds: tuple[int, ...]


def main(argv=None):
    """Runs the study and prints its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", default="", help="folder of all results; default: a temporary one")
    parser.add_argument("--data", default=",".join(RECIPES), help="collections, with commas")
    parser.add_argument("--backbones", default=",".join(BACKBONES), help="networks, with commas")
    parser.add_argument("--models", default=",".join(MODELS), help="what is trained, with commas")
    parser.add_argument("--refine", default="none", help="refinements of the masks, with semicolons")
    parser.add_argument("--thresholds", default="0.2", help="background thresholds, with commas; or auto")
    parser.add_argument("--seeds", default="0", help="seeds, with commas")
    parser.add_argument("--quick", action="store_true", help="drawn scenes and a small network, two epochs")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(options.output or scratch).resolve()
        if options.quick:
            show(quick_rows(output))
            return 0
        if not (SHARED / "data").is_dir():
            print(f"skipped: no photographs at {SHARED / 'data'}; set WSSS_SHARED")
            return 0
        study = Study(
            output=output,
            data=tuple(options.data.split(",")),
            backbones=tuple(options.backbones.split(",")),
            models=tuple(options.models.split(",")),
            refinements=tuple(options.refine.split(";")),
            thresholds=tuple(options.thresholds.split(",")),
            seeds=tuple(map(int, options.seeds.split(","))),
        )
        show(study_rows(study))
    return 0


def study_rows(study):
    """Runs what is missing and returns one row a setting and seed."""
    rows = []
    for data in study.data:
        shards = prepare(data, study.output / data)
        for backbone in study.backbones:
            for model in study.models:
                for seed in study.seeds:
                    run = study.output / f"{data}-{backbone}-{model.replace(' ', '_')}-{seed}"
                    train(run, shards, [*RECIPES[data], *BACKBONES[backbone], *MODELS[model]], seed)
                    for refine in study.refinements:
                        for threshold in study.thresholds:
                            metrics = label(run, shards, model, refine, threshold)
                            rows.append((data, backbone, model, refine, threshold, seed, metrics))
    return rows


def quick_rows(output):
    """Two rows on the built-in collection."""
    from wsss.data.synthetic import write_synthetic_collection

    shards = output / "drawn"
    write_synthetic_collection(str(shards), images=60, size=96)
    rows = []
    for model in ("classifier", "SEAM"):
        run = output / model
        small = ["--backbone", "small", "--backbone_weights", "none", "--image_size", "96"]
        small += ["--long_side", "96,128", "--epochs", "2"]
        train(run, shards, [*MODELS[model], *small], 0)
        rows.append(("drawn", "small", model, "none", "0.2", 0, label(run, shards, model, "none", "0.2")))
    return rows


def prepare(data, shards):
    """Shards of one of the collections of photographs."""
    if not (shards / "dataset_info.json").exists():
        source = SHARED / "data" / data
        flags = {"images": source / "images", "labels": source / "labels.csv", "masks": source / "masks"}
        command = ["-m", "wsss.prepare", *(f"--{name}={path}" for name, path in flags.items())]
        run_python([*command, f"--classes={source / 'classes.txt'}", f"--output={shards}", "--shards=4"])
    return shards


def train(run, shards, flags, seed):
    """Trains into `run`, unless it is there."""
    if (run / "model.keras").exists():
        return
    options = [f"--data={shards}", f"--output={run}", f"--seed={seed}", "--val_split=none"]
    run_python(["-m", "wsss.train", *options, *flags])


def label(run, shards, model, refine, threshold):
    """Metrics of the pseudo labels of the training split; the maps of a classifier are read out unrefined."""
    masks = run / f"masks-{refine.replace(',', '_')}-{threshold}"
    if not (masks / "metrics.json").exists():
        program = [str(PROJECT / "pipelines/pseudo_labels.py"), "--runner=DirectRunner", "--split=train"]
        program += ["--save_scores"]
        options = [f"--model={run}", f"--data={shards}", f"--output={masks}"]
        options += ["--cam=cam" if "--model=classifier" in MODELS[model] else "--cam=refined_cam"]
        run_python([*program, *options, f"--refine={refine}", f"--background_threshold={threshold}"])
    return json.loads((masks / "metrics.json").read_text())


def run_python(arguments):
    """Runs one of the programs; what it prints is shown only where it fails."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def show(rows):
    """Prints the mean and the standard deviation over the seeds."""
    groups = {}
    for *setting, _, metrics in rows:
        groups.setdefault(tuple(setting), []).append(metrics)
    print(
        "| data | network | trained as | refinement | threshold | mIoU at it | best mIoU | best at | seeds |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for setting, runs in groups.items():
        chosen = [run["background_threshold"] for run in runs]
        best = ", ".join(f"{value['best']:.2f}" for value in chosen)
        cells = [*setting, spread([100 * run["miou"] for run in runs])]
        cells += [spread([100 * value["best_miou"] for value in chosen]), best, str(len(runs))]
        print("| " + " | ".join(cells) + " |")


def spread(values):
    """`mean ± standard deviation`, the latter where there is one."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


if __name__ == "__main__":
    sys.exit(main())
