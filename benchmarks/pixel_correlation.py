"""Time and memory of pixel correlation: in blocks (ours), and with the matrix of all pairs (plain).

Each form runs in a process of its own, so that its peak memory is known; the processes take turns, one
call each a round. Inputs as in SEAM: 192 feature channels, 21 maps, one image. "growth" is the peak of
the whole process above its size before the first call. The plain PyTorch form joins where torch can be
imported by `--torch_python`.

    python -m benchmarks.pixel_correlation [--quick] [--torch_python /path/to/python]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

FORMS = {"ours": "blocks (ours)", "plain": "plain, TensorFlow", "torch": "plain, PyTorch"}
SIZES = ((56, 56), (94, 125), (128, 128))  # images of 448, about 750 x 1000, and 1024 pixels at stride 8
QUICK_SIZES = ((28, 28), (56, 56))
CHANNELS, CLASSES, EPSILON = 192, 21, 1e-5


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes only, some seconds")
    parser.add_argument("--rounds", type=int, default=5, help="calls of each form, >= 5 (default 5)")
    parser.add_argument("--torch_python", default=sys.executable, help="interpreter that has torch")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        form, height, width, gradient = args.worker
        return work(form, int(height), int(width), gradient == "True")

    interpreters = {"ours": sys.executable, "plain": sys.executable, "torch": args.torch_python}
    has_torch = [args.torch_python, "-c", "import importlib.util as i; exit(i.find_spec('torch') is None)"]
    if subprocess.run(has_torch, check=False).returncode:
        print("PyTorch is not installed: its rows are left out (pip install torch==2.13.0).")
        del interpreters["torch"]
    print(
        f"{'positions':>9}  {'pass':<8}  {'form':<18} {'seconds':>8} {'peak MB':>8} {'growth MB':>9}  ours is"
    )
    for size in QUICK_SIZES if args.quick else SIZES:
        for gradient in (False, True):
            if gradient and size == SIZES[-1]:
                continue  # the plain forms would take 6 GB
            report(size, gradient, compare(interpreters, size, gradient, args.rounds))
    return 0


def compare(interpreters, size, gradient, rounds):
    """Results of each form, `{form: {"seconds": [...], "peak": MB, "growth": MB, "sample": [...]}}`."""
    workers = {}
    for form, interpreter in interpreters.items():
        command = [interpreter, "-m", "benchmarks.pixel_correlation", "--worker", form]
        workers[form] = subprocess.Popen(
            [*command, *map(str, size), str(gradient)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        workers[form].stdout.readline()  # ready, and quiet while the next one starts
    seconds = {form: [] for form in workers}
    for _ in range(rounds):
        for form, worker in workers.items():
            print("call", file=worker.stdin, flush=True)
            seconds[form].append(json.loads(worker.stdout.readline()))
    results = {}
    for form, worker in workers.items():
        output, _ = worker.communicate("")
        results[form] = {"seconds": seconds[form], **json.loads(output)}
    return results


def report(size, gradient, results):
    ours = results["ours"]
    for form, result in results.items():
        median = statistics.median(result["seconds"])
        line = f"{size[0]:>4}x{size[1]:<4}  {'training' if gradient else 'forward':<8}  {FORMS[form]:<18}"
        line += f" {median:8.3f} {result['peak']:8.0f} {result['growth']:9.0f}"
        if form != "ours":
            faster = median / statistics.median(ours["seconds"])
            difference = np.abs(np.subtract(result["sample"], ours["sample"])).max()
            line += f"  {faster:.1f}x as fast, {ours['growth'] / max(result['growth'], 1):.0%} of the growth,"
            line += f" largest difference {difference:.0e}"
        print(line, flush=True)


def work(form, height, width, gradient):
    """The process of one form: a call for every line on stdin, then memory and a sample of the result."""
    rng = np.random.default_rng(0)
    cam = rng.random((1, height, width, CLASSES), "float32")
    feature = rng.normal(size=(1, height, width, CHANNELS)).astype("float32")
    call = (torch_call if form == "torch" else tensorflow_call)(form, cam, feature, gradient)
    before = peak_megabytes()
    result = call()
    print("ready", flush=True)
    while sys.stdin.readline():
        start = time.perf_counter()
        result = call()
        print(json.dumps(time.perf_counter() - start), flush=True)
    peak, sample = peak_megabytes(), np.asarray(result).ravel()
    sample = sample[:: max(len(sample) // 1000, 1)].astype(float).tolist()
    print(json.dumps({"peak": peak, "growth": peak - before, "sample": sample}))
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
    run.get_concrete_function(cam, feature)
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


def peak_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
