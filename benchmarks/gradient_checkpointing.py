"""Memory and time of a training step with `--gradient_checkpointing`, against plain steps.

    python -m benchmarks.gradient_checkpointing [--quick] [--backbone resnet38] [--image_size 448]

Each measurement is a process of its own, plain and checkpointed in turn: by how much the steps of SEAM raise
the resident memory of the process, and the median CPU seconds of a step after the first. So are losses.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np

from benchmarks.memory import growth_megabytes


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="MobileNetV2", choices=("MobileNetV2", "resnet38", "small"))
    parser.add_argument("--image_size", type=int, default=448)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3, help="processes of each kind")
    parser.add_argument("--quick", action="store_true", help="a small network, one process of each kind")
    parser.add_argument("--checkpointed", type=int, default=-1, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.quick:
        options.backbone, options.image_size, options.runs, options.steps = "small", 224, 1, 2
    if options.checkpointed >= 0:
        print(json.dumps(measure(options, bool(options.checkpointed))))
        return 0
    results = {kind: [] for kind in (0, 1)}
    for _ in range(options.runs):
        for kind, measured in results.items():
            measured.append(in_a_process(options, kind))
    plain, checkpointed = (
        {name: statistics.median(each[name] for each in results[kind]) for name in results[kind][0]}
        for kind in (0, 1)
    )
    print(
        f"SEAM on {options.backbone}, {options.image_size} x {options.image_size} pixels, batch "
        f"{options.batch_size}, float32, CPU; median of {options.runs}"
    )
    print(f"{'':14s} {'memory, MB':>11s} {'CPU s':>8s} {'loss':>9s}")
    for name, values in (("plain", plain), ("checkpointed", checkpointed)):
        print(f"{name:14s} {values['memory']:11.0f} {values['seconds']:8.2f} {values['loss']:9.5f}")
    print(
        f"{'ratio':14s} {checkpointed['memory'] / plain['memory']:11.2f} "
        f"{checkpointed['seconds'] / plain['seconds']:8.2f}"
    )
    return 0 if np.isclose(plain["loss"], checkpointed["loss"], rtol=1e-3) else 1


def in_a_process(options, checkpointed):
    """What `measure` gives in a new process."""
    command = [sys.executable, "-m", "benchmarks.gradient_checkpointing", "--checkpointed", str(checkpointed)]
    for name in ("backbone", "image_size", "batch_size", "steps"):
        command += [f"--{name}", str(getattr(options, name))]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(finished.stderr)
    return json.loads(finished.stdout.splitlines()[-1])


def measure(options, checkpointed):
    """Memory in MB, CPU seconds of a step and the last loss of some steps on random images."""
    import keras

    from wsss.backbones.applications import build_backbone
    from wsss.backbones.resnet38 import resnet38_backbone
    from wsss.backbones.tiny import small_backbone
    from wsss.models import SEAM, RescaledView
    from wsss.training.checkpointing import CheckpointedNetwork

    keras.utils.set_random_seed(0)
    if options.backbone == "small":
        backbone = small_backbone(8)
    elif options.backbone == "resnet38":
        backbone = resnet38_backbone()
    else:
        backbone = build_backbone(options.backbone, weights="none", output_stride=16)
    model = SEAM.from_backbone(backbone, 20, view=RescaledView(0.5), seed=0)
    if checkpointed:
        model.training_network = CheckpointedNetwork(model.network)
    model.compile(keras.optimizers.SGD(0.001), "binary_crossentropy", jit_compile=False)
    rng = np.random.default_rng(0)
    shape = (options.batch_size, options.image_size, options.image_size, 3)
    images = rng.uniform(size=shape).astype("float32")
    labels = (rng.uniform(size=(options.batch_size, 20)) < 0.1).astype("float32")
    seconds, losses = [], []

    def train():
        for _ in range(1 + options.steps):
            start = time.process_time()
            losses.append(float(model.train_on_batch(images, labels)[0]))
            seconds.append(time.process_time() - start)

    memory = growth_megabytes(train)
    return {"memory": memory, "seconds": statistics.median(seconds[1:]), "loss": losses[-1]}


if __name__ == "__main__":
    sys.exit(main())
