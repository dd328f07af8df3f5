"""Whether the README's bare commands learn on collections of any kind, and beat a linear probe.

    python -m benchmarks.robust_defaults --output grid [--cells exclusive,collages] [--backbones edgetpu,none]
    python -m benchmarks.robust_defaults --quick

A cell is a collection of `benchmarks.derived_collections`. Each is trained with data, backbone and output
given and no other option (but the batch size and the seed of the grid), and labeled with
`--background_threshold auto`. The baselines of the same cell are the plain classifier and a linear probe on
the frozen features (`benchmarks.linear_probe`). A run has *learned* where its last `val_map` is at least 0.9
of the probe's. mIoU is in % on the training split, with the tags given; *best* is at the threshold that the
true masks choose.

Every finished run is a line of `OUTPUT/results.jsonl`, and is not run again. `--options` takes a JSON object
of further training options, to see what another default would do. `--quick`: a classifier on drawn scenes.
"""

import argparse
import itertools
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.derived_collections import CELLS, SHARED, write_cell
from benchmarks.linear_probe import run_probe
from wsss.common.errors import UserError

WEIGHTS = SHARED / "data/weights"
BACKBONES = {
    "edgetpu": {"backbone": str(WEIGHTS / "mobilenet_edgetpu_imagenet_notop.keras")},
    "mobilenetv2": {
        "backbone": "MobileNetV2",
        "backbone_weights": str(WEIGHTS / "mobilenet_v2_imagenet_notop.weights.h5"),
    },
    "none": {"backbone": "MobileNetV2", "backbone_weights": "none"},
    "small": {"backbone": "small", "backbone_weights": "none", "output_stride": 8},
}
MODELS = ("probe", "classifier", "seam")
ENOUGH = 0.9  # of the probe's `val_map`
QUICK = {"optimizer": "adamw", "learning_rate": 0.002, "new_layer_multiplier": 1.0, "epochs": 2}
QUICK |= {"image_size": 64, "long_side": [64, 96], "val_images": 8, "on_divergence": "continue"}


def main(argv=None):
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.robust_defaults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [name for name in CELLS if name != "quick"]
    parser.add_argument("--output", default="", help="folder of results; default: a temporary one")
    parser.add_argument("--cells", default=",".join(names), help="collections, with commas")
    parser.add_argument("--backbones", default="edgetpu,mobilenetv2,none", help="networks, with commas")
    parser.add_argument("--batches", default="8", help="batch sizes, with commas; 8 is the default")
    parser.add_argument("--seeds", default="0", help="seeds, with commas")
    parser.add_argument("--models", default=",".join(MODELS), help="what is run, with commas")
    parser.add_argument("--options", default="{}", help="further training options, a JSON object")
    parser.add_argument("--quick", action="store_true", help="a small classifier on drawn scenes")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        study = Study(Path(options.output or scratch).resolve(), json.loads(options.options))
        if options.quick:
            study = Study(study.output, QUICK)
            grid = [("quick", "small", 8, 0, model) for model in ("probe", "classifier")]
        elif not WEIGHTS.is_dir():
            print(f"skipped: no photographs at {SHARED / 'data'}; set WSSS_SHARED")
            return 0
        else:
            grid = itertools.product(
                options.cells.split(","),
                options.backbones.split(","),
                map(int, options.batches.split(",")),
                map(int, options.seeds.split(",")),
                options.models.split(","),
            )
        rows = [study.row(*setting) for setting in grid]
        show(rows)
    return 0


class Study:
    """The results in a folder, and what runs those that are missing.

    Args:
        output: the folder.
        options: training options beside the bare command's.
    """

    def __init__(self, output, options):
        self.output, self.options = output, options
        self._file = output / "results.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self._rows = [json.loads(line) for line in lines]

    def row(self, cell, backbone, batch, seed, model):
        """The result of one run, by name; a failure has no figures but `failure`."""
        given = self.options if model != "probe" else {}
        key = {"cell": cell, "backbone": backbone, "model": model, "options": given}
        if model != "probe":
            key |= {"batch": batch, "seed": seed}
        for row in self._rows:
            if row["key"] == key:
                return {**row, "batch": batch, "seed": seed}
        started = time.process_time()
        collection = write_cell(cell, str(self.output / "data" / cell))
        found = (
            _probe(collection, backbone)
            if model == "probe"
            else self._train_and_label(collection, backbone, batch, seed, model)
        )
        row = {"key": key, **found, "images": collection.split_sizes["train"]}
        row |= {"classes": len(collection.class_names), "cpu_seconds": round(time.process_time() - started)}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        self._rows.append(row)
        return {**row, "batch": batch, "seed": seed}

    def _train_and_label(self, collection, backbone, batch, seed, model):
        from wsss.pipeline.api import label_collection
        from wsss.training.api import train_model

        folder = self.output / "runs" / f"{collection.name}-{backbone}-{batch}-{seed}-{model}"
        shutil.rmtree(folder, ignore_errors=True)  # of a study that was stopped
        values = {**BACKBONES[backbone], "model": model, "batch_size": batch, "seed": seed, **self.options}
        if "long_side" in values:
            values["long_side"] = tuple(values["long_side"])
        try:
            run = train_model(collection.directory, str(folder / "run"), **values)
            result = json.loads(Path(run.result).read_text())
            label_collection(
                run.path,
                collection.directory,
                str(folder / "labels"),
                background_threshold="auto",
                previews=0,
            )
        except UserError as error:
            return {"failure": str(error)}
        metrics = json.loads((folder / "labels" / "metrics.json").read_text())
        return {
            "val_map": float(result["last_epoch"]["val_map"]),
            "restarts": result["restarts"],
            "learned": result["learned"],
            "auto": metrics["miou"],
            "best": metrics["background_threshold"]["best_miou"],
        }


def _probe(collection, backbone):
    from wsss.training.building import make_backbone
    from wsss.training.options import TrainingOptions

    found = run_probe(collection, make_backbone(TrainingOptions(**BACKBONES[backbone])))
    return {"val_map": found.val_map, "auto": found.auto, "best": found.best}


def show(rows):
    """Prints a line a run beside the probe of its cell, and the means over the cells."""
    places = [(row["key"]["cell"], row["key"]["backbone"]) for row in rows]
    probes = {place: row for place, row in zip(places, rows, strict=True) if row["key"]["model"] == "probe"}
    print(" | ".join(["| collection", *_COLUMNS, "learned |"]))
    print("|---" * (len(_COLUMNS) + 2) + "|")
    gains = {}
    for place, row in zip(places, rows, strict=True):
        model, probe = row["key"]["model"], probes.get(place)
        figures = [f"{100 * row[name]:.1f}" if name in row else "-" for name in ("val_map", "auto", "best")]
        of_run = [row["batch"], row["seed"]] if model != "probe" else ["", ""]
        learned = ""
        if probe is not None and model != "probe":
            learned = "yes" if has_learned(row, probe) else "no"
            gains.setdefault((place[1], model), []).append(row.get("auto", 0.0) - probe["auto"])
        shown = [place[0], row["images"], row["classes"], place[1], *of_run, model, *figures, learned]
        print(f"| {' | '.join(map(str, shown))} |")
    for (backbone, model), values in gains.items():
        mean, below = 100 * sum(values) / len(values), sum(value < 0 for value in values)
        print(
            f"{backbone}, {model}, at auto: {mean:+.1f} over the probe, below it in {below} of {len(values)}"
        )


_COLUMNS = ("images", "classes", "network", "batch", "seed", "trained as", "val_map", "auto", "best")


def has_learned(row, probe):
    """Whether a run ranks the tags of `val` about as well as the probe."""
    return row.get("val_map", 0.0) >= ENOUGH * probe["val_map"]


if __name__ == "__main__":
    sys.exit(main())
