"""Time and memory of pixel correlation: in blocks (ours), and with the matrix of all pairs (plain).

Each form runs in a process of its own, so that its peak memory is known; the processes take turns, one
call each a round. Inputs as in SEAM: 192 feature channels, 21 maps, one image. "growth" is the peak of
the whole process above its size before the first call. The plain PyTorch form joins where torch can be
imported by `--torch_python`.

    python -m benchmarks.pixel_correlation [--quick] [--torch_python /path/to/python]
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np

from benchmarks.memory import peak_megabytes

FORMS = {"ours": "blocks (ours)", "plain": "plain, TensorFlow", "torch": "plain, PyTorch"}
SIZES = ((56, 56), (94, 125), (128, 128))  # images of 448, about 750 x 1000, and 1024 pixels at stride 8
QUICK_SIZES = ((28, 28), (56, 56))
PASSES = ("forward", "training")  # training: with the gradient of the features
CHANNELS, CLASSES, EPSILON = 192, 21, 1e-5


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes only, some seconds")
    parser.add_argument("--rounds", type=int, default=5, help="calls of each form, >= 5 (default 5)")
    parser.add_argument("--torch_python", default=sys.executable, help="interpreter that has torch")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        form, height, width = args.worker
        return work(form, int(height), int(width))

    interpreters = {"ours": sys.executable, "plain": sys.executable, "torch": args.torch_python}
    has_torch = [args.torch_python, "-c", "import importlib.util as i; exit(i.find_spec('torch') is None)"]
    if subprocess.run(has_torch, check=False).returncode:
        print("PyTorch is not installed: its rows are left out (pip install torch==2.13.0).")
        del interpreters["torch"]
    print("positions  pass      form                seconds   CPU s  peak MB growth MB  ours is")
    for size in QUICK_SIZES if args.quick else SIZES:
        passes = ("forward",) if size == SIZES[-1] else PASSES  # plain training would take 6 GB there
        workers = {form: start_worker(python, form, size) for form, python in interpreters.items()}
        for name in passes:
            report(size, name, compare(workers, name, args.rounds))
        for worker in workers.values():
            worker.communicate("")
    return 0


def start_worker(python, form, size):
    command = [python, "-m", "benchmarks.pixel_correlation", "--worker", form, *map(str, size)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    worker = subprocess.Popen(command, text=True, **pipes)
    worker.stdout.readline()  # ready, and idle while the next one starts
    return worker


def compare(workers, name, rounds):
    """`{form: result}` of a pass: "times" (rounds, [wall, CPU]), "peak" and "growth" in MB, "sample"."""
    results = {form: {"times": []} for form in workers}
    for _ in range(1 + rounds):  # the first call traces and warms up
        for form, worker in workers.items():
            print(name, file=worker.stdin, flush=True)
            answer = json.loads(worker.stdout.readline())
            results[form]["times"].append(answer.pop("time"))
            results[form] |= answer
    return results


def report(size, name, results):
    ours, our_seconds = results["ours"], median_times(results["ours"])[0]
    for form, result in results.items():
        seconds, cpu_seconds = median_times(result)
        line = f"{size[0]:>4}x{size[1]:<4}  {name:<8}  {FORMS[form]:<18} {seconds:8.3f} {cpu_seconds:7.3f}"
        line += f" {result['peak']:8.0f} {result['growth']:9.0f}"
        if form != "ours":
            fraction = ours["growth"] / max(result["growth"], 1)
            difference = np.abs(np.subtract(result["sample"], ours["sample"])).max()
            speed = seconds / our_seconds
            line += f"  {speed:.1f}x as fast, {fraction:.0%} of the growth, to {difference:.0e}"
        print(line, flush=True)


def median_times(result):
    return np.median(result["times"][1:], axis=0)


def work(form, height, width):
    """The process of one form: runs the pass named by each line on stdin, answers with its cost."""
    rng = np.random.default_rng(0)
    cam = rng.random((1, height, width, CLASSES), "float32")
    feature = rng.normal(size=(1, height, width, CHANNELS)).astype("float32")
    make_call = torch_call if form == "torch" else tensorflow_call
    calls = {name: make_call(form, cam, feature, name == "training") for name in PASSES}
    before = peak_megabytes()
    print("ready", flush=True)
    for name in map(str.strip, sys.stdin):
        start, cpu_start = time.perf_counter(), time.process_time()
        result = calls[name]()
        seconds = [time.perf_counter() - start, time.process_time() - cpu_start]
        peak, sample = peak_megabytes(), result.ravel()
        sample = sample[:: max(len(sample) // 1000, 1)].astype(float).tolist()
        answer = {"time": seconds, "peak": peak, "growth": peak - before, "sample": sample}
        print(json.dumps(answer), flush=True)
    return 0


def tensorflow_call(form, cam, feature, gradient):
    import tensorflow as tf

    from wsss.ops.correlation import pixel_correlation

    def plain(cam, feature):
        unit = tf.reshape(feature, (-1, CHANNELS))
        unit = unit / (tf.norm(unit, axis=-1, keepdims=True) + EPSILON)
        similarity = tf.nn.relu(tf.matmul(unit, unit, transpose_b=True))
        similarity = similarity / (tf.reduce_sum(similarity, axis=0, keepdims=True) + EPSILON)
        refined = tf.matmul(similarity, tf.reshape(cam, (-1, CLASSES)), transpose_a=True)
        return tf.reshape(refined, cam.shape)

    refine = plain if form == "plain" else pixel_correlation

    @tf.function
    def run(cam, feature):
        if not gradient:
            return refine(cam, feature)
        with tf.GradientTape() as tape:
            tape.watch(feature)
            loss = tf.reduce_sum(refine(cam, feature) * cam)
        return tape.gradient(loss, feature)

    cam, feature = tf.constant(cam), tf.constant(feature)
    return lambda: run(cam, feature).numpy()


def torch_call(form, cam, feature, gradient):
    import torch
    from torch.nn import functional

    cam = torch.from_numpy(cam.reshape(1, -1, CLASSES))
    feature = torch.from_numpy(feature.reshape(1, -1, CHANNELS)).requires_grad_(gradient)

    def refine():
        unit = feature / (feature.norm(dim=-1, keepdim=True) + EPSILON)
        similarity = functional.relu(torch.matmul(unit, unit.transpose(1, 2)))
        similarity = similarity / (similarity.sum(dim=1, keepdim=True) + EPSILON)
        return torch.matmul(similarity.transpose(1, 2), cam)

    def run():
        if not gradient:
            with torch.no_grad():
                return refine().numpy()
        return torch.autograd.grad((refine() * cam).sum(), feature)[0].numpy()

    return run


if __name__ == "__main__":
    sys.exit(main())
