"""SEAM on ResNet-38d here and in PyTorch: the same layers, weights and images, in turns.

Each framework runs in a process of its own, so that its memory is known: "peak" is the largest resident size
of the whole process from its start, imports and the loading of the weights from a file included, and "growth"
how far that is above the size after all imports. Calls alternate, and the median counts. "rate" is that of
the calls relative to the fastest large float32 matrix product of the row, of either framework; another
process of each measures some after every call. On a shared machine trust the CPU seconds of `--threads 1`
more than the wall clock.

    python -m benchmarks.torch_comparison [--quick] [--rows forward inference] [--torch_python PYTHON]

Rows: forward (448 x 448), inference (one 375 x 500 photograph at scales 0.5, 1, 1.5 and 2, each with its
mirror, merged at its size for two present classes), train_224 and train_448 (a step of batch 2, with
oneDNN on every CPU, as in `wsss.train`).
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from typing import NamedTuple

import numpy as np

from benchmarks.memory import peak_megabytes

FORMS = {"ours": "wsss (Keras, TensorFlow)", "torch": "PyTorch"}
WEIGHTS = {"ours": "model.keras", "torch": "model.pth"}
SCALES = (0.5, 1.0, 1.5, 2.0)
PRESENT = (3, 14)  # classes of the photograph
CLASSES = 20
PRODUCT = 2048  # side of the matrices of the reference product
PRODUCTS = 5  # of them after each call; the fastest counts


class Row(NamedTuple):
    """One comparison: what is done, to which image size, in which batch."""

    name: str
    size: tuple
    batch: int = 1


ROWS = {
    "forward": Row("forward", (448, 448)),
    "inference": Row("inference", (375, 500)),
    "train_224": Row("train", (224, 224), 2),
    "train_448": Row("train", (448, 448), 2),
}
QUICK_ROWS = {
    "forward": Row("forward", (128, 128)),
    "inference": Row("inference", (75, 100)),
    "train_64": Row("train", (64, 64), 2),
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the width, small images, seconds")
    parser.add_argument("--rows", nargs="+", help=f"some of {', '.join(ROWS)}; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="calls of each framework (default 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each (default: all cores)")
    parser.add_argument("--torch_python", default=sys.executable, help="interpreter that has torch")
    parser.add_argument("--worker", nargs=3, metavar=("FORM", "TASK", "WEIGHTS"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        return work(*args.worker, args.quick, args.threads)

    rows = QUICK_ROWS if args.quick else ROWS
    interpreters = {"ours": sys.executable, "torch": args.torch_python}
    probe = [args.torch_python, "-c", "import importlib.util as i; exit(i.find_spec('torch') is None)"]
    if subprocess.run(probe, check=False).returncode:
        print("PyTorch is not installed: its rows are left out (pip install torch==2.13.0).")
        del interpreters["torch"]
    print(
        f"{'row':<14} {'framework':<25} {'seconds':>8} {'CPU s':>8} {'images/s':>9} {'GFLOP':>7} "
        f"{'GFLOP/s':>8} {'rate':>6} {'peak MB':>8} {'growth':>7}"
    )
    names = args.rows or list(rows)
    for name in names:
        if name not in rows:
            parser.error(f"no such row: {name}; there are {', '.join(rows)}")
    with tempfile.TemporaryDirectory() as folder:
        commands = {}
        for form, interpreter in interpreters.items():
            options = ["--threads", str(args.threads), *["--quick"] * args.quick]
            worker = [interpreter, "-m", "benchmarks.torch_comparison", *options, "--worker", form]
            commands[form] = functools.partial(start, worker, os.path.join(folder, WEIGHTS[form]))
            commands[form]("weights").communicate()
        for name in names:
            report(name, rows[name], compare(commands, name, args.rounds))
    return 0


def start(command, weights, task):
    """A process for a task of one framework."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command, task, weights], text=True, **pipes)


def compare(commands, name, rounds):
    """What each framework's process said: `{form: {"times": [[wall, cpu], ...], "peak": MB, ...}}`."""
    workers = {}
    for form, command in commands.items():
        for task in (name, "product"):
            worker = command(task)
            if not worker.stdout.readline():  # ready, and idle while the next one starts
                raise RuntimeError(f"The process of {form} ended; run it alone: {' '.join(worker.args)}")
            workers[form, task] = worker
    results = {form: {"times": [], "products": []} for form in commands}
    for _ in range(rounds):
        for form, result in results.items():
            result["times"].append(ask(workers[form, name]))
            result["products"].append(ask(workers[form, "product"]))
    for (form, task), worker in workers.items():
        output, _ = worker.communicate("")
        if task == name:
            results[form].update(json.loads(output))
            results[form]["growth"] = results[form]["peak"] - results[form]["before"]
    return results


def ask(worker):
    """What a worker measures now."""
    print("call", file=worker.stdin, flush=True)
    return json.loads(worker.stdout.readline())


def report(name, row, results):
    medians = {form: np.median(result["times"], axis=0) for form, result in results.items()}
    product = max(rate for result in results.values() for rate in result["products"])
    for form, result in results.items():
        wall, cpu = medians[form]
        gflop = results["ours"]["gflop"]
        rate = gflop / wall
        line = (
            f"{name:<14} {FORMS[form]:<25} {wall:8.3f} {cpu:8.3f} {row.batch / wall:9.3f} {gflop:7.0f} "
            f"{rate:8.1f} {rate / product:6.2f} {result['peak']:8.0f} "
            f"{result['growth']:7.0f}"
        )
        if form != "ours":
            ours = medians["ours"]
            difference = np.abs(np.subtract(result["sample"], results["ours"]["sample"])).max()
            largest = np.abs(result["sample"]).max()
            peak, growth = (results["ours"][key] / result[key] for key in ("peak", "growth"))
            line += (
                f"  ours: {wall / ours[0]:.2f}x the speed, {cpu / ours[1]:.2f}x a CPU second, "
                f"{peak:.0%} of the peak, {growth:.0%} of the growth, equal to {difference / largest:.0e}"
            )
        print(line, flush=True)


def work(form, task, weights, quick, threads):
    """The process of one framework.

    Args:
        form: of `FORMS`.
        task: name of a row, whose calls are measured; "product": matrix products are; "weights": the file is
            written.
        weights: path of the file with the model.
        quick, threads: as on the command line.
    """
    set_threads(form, threads, training=task.startswith("train"))
    torch = form == "torch"
    width = 0.25 if quick else 1.0
    if task == "weights":
        return (write_torch_weights if torch else write_our_weights)(weights, width)
    if task == "product":
        return serve(functools.partial(fastest_product, torch_product if torch else our_product))
    before = peak_megabytes()
    row = (QUICK_ROWS if quick else ROWS)[task]
    call, gflop = torch_call(row, weights, width) if torch else our_call(row, weights)
    sample = np.ravel(call())  # the first call compiles and allocates, and is not timed

    def seconds():
        start, cpu_start = time.perf_counter(), time.process_time()
        call()
        return time.perf_counter() - start, time.process_time() - cpu_start

    serve(seconds)
    sample = sample[:: max(sample.size // 1000, 1)].astype(float).tolist()
    result = {"before": before, "peak": peak_megabytes(), "sample": sample, "gflop": gflop}
    print(json.dumps(result), flush=True)
    return 0


def serve(measure):
    """Measures once for each line on stdin, and prints the result."""
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure()), flush=True)
    return 0


def fastest_product(product):
    """GFLOP/s of the fastest of some large matrix products."""
    seconds = []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - start)
    return 2 * PRODUCT**3 / 1e9 / min(seconds)


def set_threads(form, threads, training):
    """Imports all that the framework's calls import, as the programs do, and sets its threads."""
    if form == "torch":
        import torch

        import benchmarks.torch_seam  # noqa: F401

        torch.set_num_threads(threads)
    else:
        from wsss.common.tf_import import import_tensorflow

        import_tensorflow(onednn=training)
        import tensorflow as tf

        import wsss.inference.compilation
        import wsss.inference.loading
        import wsss.inference.tiling.tile
        import wsss.weights.published  # noqa: F401

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)


def weight(name, shape):
    """The same weights in both frameworks, made from the tensor's name; in PyTorch's layout."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, "float32")
    if len(shape) == 4:
        return values * np.float32(np.sqrt(1.5 / np.prod(shape[1:])))
    if name.endswith("running_var"):
        return 1 + np.abs(values) / 4
    return values / 10 + np.float32(name.endswith(".weight"))


def photographs(row):
    """Float images in [0, 1] and their labels."""
    random = np.random.default_rng(0)
    images = random.random((row.batch, *row.size, 3), "float32")
    labels = np.zeros((row.batch, CLASSES), "float32")
    labels[:, PRESENT] = 1
    return images, labels


def write_our_weights(path, width):
    from wsss.weights.mapping import load_tensors, published_tensors
    from wsss.weights.published import published_seam

    model = published_seam(CLASSES, "linear", width=width, dropout=False)
    shapes = {name: value.shape for name, value in published_tensors(model).items()}
    load_tensors(model, {name: weight(name, shape) for name, shape in shapes.items()})
    model.save(path)
    return 0


def write_torch_weights(path, width):
    import torch

    from benchmarks.torch_seam import TorchSEAM

    state = TorchSEAM(CLASSES, width).state_dict()
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            state[name] = torch.from_numpy(weight(name, tuple(value.shape)))
    torch.save(state, path)
    return 0


def our_call(row, path):
    """`(function, GFLOP of one call)` with the models of this package."""
    import keras
    import tensorflow as tf

    from wsss.inference import CamPredictor, load_model
    from wsss.inference.cam_scores import merge_scales

    model = load_model(path)
    images, labels = photographs(row)
    gflop = flops(model.network, row) / 1e9
    if row.name == "forward":
        refined = model.refined_cam
        run = tf.function(lambda x: refined(x, training=False), reduce_retracing=True)
        images = tf.constant(images)
        return lambda: run(images).numpy(), gflop
    if row.name == "inference":
        predictor = CamPredictor(model, scales=SCALES, max_side=0, threads=1)
        picture = (images[0] * 255).astype("uint8")

        def infer():
            prediction = predictor.predict([picture])[0]
            present = [cam[list(PRESENT)] for cam in prediction.cams]
            return merge_scales(present, prediction.scaled_sizes, row.size)

        return infer, gflop
    from wsss.backbones.base import freeze
    from wsss.backbones.resnet38 import FROZEN_STAGES

    freeze(model.network, batch_norm=True, prefixes=FROZEN_STAGES)
    model.compile(keras.optimizers.SGD(1e-6), loss=keras.losses.BinaryCrossentropy(from_logits=True))
    return lambda: np.asarray(model.train_on_batch(images, labels)[:1]), gflop


def torch_call(row, path, width):
    """`(function, None)` with the baseline of `benchmarks.torch_seam`; its GFLOP are ours."""
    import torch
    from PIL import Image

    from benchmarks.torch_seam import TorchSEAM, seam_loss

    model = TorchSEAM(CLASSES, width).eval()
    model.load_state_dict(torch.load(path))
    mean, deviation = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images, labels = photographs(row)

    def as_input(images):
        return (torch.from_numpy(images).permute(0, 3, 1, 2) - mean) / deviation

    if row.name == "forward":
        x = as_input(images)

        def forward():
            with torch.no_grad():
                return model(x)[1][:, 1:].permute(0, 2, 3, 1).numpy()

        return forward, None
    if row.name == "inference":
        picture = Image.fromarray((images[0] * 255).astype("uint8"))

        def infer():
            total = 0
            for scale in SCALES:
                size = [round(side * scale) for side in row.size]
                scaled = np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC), "float32") / 255
                for mirrored in (False, True):
                    view = np.ascontiguousarray(scaled[None, :, ::-1] if mirrored else scaled[None])
                    with torch.no_grad():
                        refined = model(as_input(view))[1]
                        refined = torch.nn.functional.interpolate(
                            refined, size, mode="bilinear", align_corners=True
                        )
                        refined = torch.nn.functional.interpolate(refined, row.size, mode="bilinear")[0, 1:]
                    total = total + (refined.flip(-1) if mirrored else refined)
            return total[list(PRESENT)].numpy()

        return infer, None
    x, y = as_input(images), torch.from_numpy(labels)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6)

    def train():
        optimizer.zero_grad()
        loss = seam_loss(model, x, y)
        loss.backward()
        optimizer.step()
        return loss.detach().numpy()[None]

    return train, None


def flops(network, row):
    """Multiplications and additions of the convolutions and of the pixel correlation in one call.

    A backward pass counts twice a forward pass for trained layers, and nothing for the frozen stages.
    """
    from wsss.backbones.resnet38 import FROZEN_STAGES

    def forward(size, factor_of_trained=1):
        cells = {"conv1a": 1, "b2": 4, "b2_1": 4, "b2_2": 4, "b3": 16, "b3_1": 16, "b3_2": 16}
        total = 0
        for layer in network.layers:
            if hasattr(layer, "kernel"):
                stage = layer.name.split("-")[0]
                positions = size[0] * size[1] / cells.get(stage, 64)
                factor = 1 if stage in FROZEN_STAGES else factor_of_trained
                total += factor * 2 * positions * np.prod(layer.kernel.shape)
        positions = size[0] * size[1] / 64
        return total + factor_of_trained * 2 * positions**2 * (192 + CLASSES + 1)

    if row.name == "inference":
        return sum(2 * forward([side * scale for side in row.size]) for scale in SCALES)
    if row.name == "train":
        views = (row.size, [side * 0.3 for side in row.size])
        return row.batch * sum(forward(view, 3) for view in views)
    return forward(row.size)


def our_product():
    import tensorflow as tf

    x = tf.ones((PRODUCT, PRODUCT))
    tf.matmul(x, x).numpy()


def torch_product():
    import torch

    x = torch.ones((PRODUCT, PRODUCT))
    torch.mm(x, x)


if __name__ == "__main__":
    sys.exit(main())
