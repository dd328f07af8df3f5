"""SEAM on ResNet-38d on an accelerator, against PyTorch 2, eager and compiled, on the same card in one run.

    python -m benchmarks.accelerator [--backend jax|torch|tensorflow] [--rows forward step] [--quick]

Every form of a row runs in a process of its own. They compile side by side, which is timed apart, and then
take turns, one call each a round; the median counts. On a card activations are bfloat16 on both sides, and
PyTorch's images are channels-last. It needs keras, its backend, torch, NumPy and Pillow, and neither
TensorFlow nor Beam; where torch is missing its forms are left out. Without a card the same rows run on the
CPU, in float32 and without torch.compile: use `--quick`.

Rows, and what a unit is:
    ceiling      a large matrix product; TFLOP
    forward      a batch of 8 images of 448 x 448 to refined maps; images
    photo        photographs of 375 x 500 at four scales, each with its mirror, resized by Pillow; photographs
    stream       the same from JPEG files in memory, with decoding; beside it the bare network; photographs
    step         a training step, batch 8 of 448 x 448; images
    correlation  pixel correlation of 56 x 56 positions, batch 8, and its gradient; calls
    pamr         ten iterations of PAMR, batch 8 of 224 x 224 with 21 classes; images
"""

import argparse
import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.torch_comparison import CLASSES, SCALES, weight

FORMS = {
    "ours": "wsss, Keras on {backend}",
    "bare": "  its network alone",
    "eager": "PyTorch, eager",
    "compiled": "PyTorch, torch.compile",
}
OURS = ("ours", "bare")
GROUP = 4  # photographs that go through the network together


class Sizes(NamedTuple):
    """How large the inputs of the rows are."""

    product: int
    batch: int
    side: int
    photo: tuple[int, int]
    photos: int
    steps: int
    positions: int
    pamr: tuple[int, int, int]  # images, side, classes
    width: float  # of ResNet-38


FULL = Sizes(8192, 8, 448, (375, 500), 16, 8, 56, (8, 224, 21), 1.0)
QUICK = Sizes(512, 2, 64, (48, 64), 4, 2, 16, (2, 48, 5), 0.125)
ROWS = {
    "ceiling": ("TFLOP", ("ours", "eager")),
    "forward": ("images", ("ours", "eager", "compiled")),
    "photo": ("photographs", ("ours", "eager")),
    "stream": ("photographs", ("ours", "bare")),
    "step": ("images", ("ours", "eager", "compiled")),
    "correlation": ("calls", ("ours", "eager", "compiled")),
    "pamr": ("images", ("ours", "eager", "compiled")),
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--backend",
        default=os.environ.get("KERAS_BACKEND") or ("jax" if find_spec("jax") else "tensorflow"),
        choices=("jax", "tensorflow", "torch"),
        help="of Keras (default: KERAS_BACKEND, or jax where it is installed)",
    )
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="default: all"
    )
    parser.add_argument("--rounds", type=int, default=5, help="calls of each form (default 5)")
    parser.add_argument("--quick", action="store_true", help="an eighth of the width, small images: for CPUs")
    parser.add_argument(
        "--precision", choices=("bfloat16", "float32"), help="of activations; default: bfloat16 on a card"
    )
    parser.add_argument("--torch_python", default=sys.executable, help="interpreter that has torch")
    parser.add_argument("--worker", nargs=2, metavar=("ROW", "FORM"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        return work(*args.worker, QUICK if args.quick else FULL, args.precision)

    torch = find_torch(args.torch_python)
    if torch is None:
        print("PyTorch is not installed: its forms are left out (pip install torch==2.13.0).")
    args.precision = args.precision or ("bfloat16" if torch == "cuda" else "float32")
    left_out = {None: ("eager", "compiled"), "cpu": ("compiled",)}.get(torch, ())
    print(
        f"{'row':<12} {'form':<26} {'unit/s':>10} {'unit':<12} {'ms a call':>10} {'first call s':>12} "
        f"{'peak MB':>8}  ours is"
    )
    for row in args.rows:
        forms = [form for form in ROWS[row][1] if form not in left_out]
        report(row, compare(row, forms, args), args.backend)
    return 0


def find_torch(interpreter):
    """Where PyTorch computes, "cuda" or "cpu"; None where it is not installed."""
    program = "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"
    done = subprocess.run([interpreter, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def compare(row, forms, args):
    """`{form: answer of its process}`, with "seconds", those of each call."""
    workers = {form: start(row, form, args) for form in forms}
    results = {form: json.loads(worker.stdout.readline() or "{}") for form, worker in workers.items()}
    ready = [form for form, result in results.items() if "error" not in result and result]
    for form in ready:
        results[form]["seconds"] = []
    for _ in range(args.rounds):
        for form in ready:
            print("call", file=workers[form].stdin, flush=True)
            results[form]["seconds"].append(json.loads(workers[form].stdout.readline()))
    for form, worker in workers.items():
        last, _ = worker.communicate("")
        if form in ready:
            results[form] |= json.loads(last)
    return results


def start(row, form, args):
    interpreter = sys.executable if form in OURS else args.torch_python
    options = ["--precision", args.precision, *["--quick"] * args.quick]
    command = [interpreter, "-m", "benchmarks.accelerator", *options, "--worker", row, form]
    environment = {**os.environ, "KERAS_BACKEND": args.backend, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def report(row, results, backend):
    unit = ROWS[row][0]
    ours = results["ours"]
    for form, result in results.items():
        label = f"{row:<12} {FORMS[form].format(backend=backend):<26}"
        if "seconds" not in result:
            print(f"{label} failed: {result.get('error', 'its process ended')}", flush=True)
            continue
        seconds = np.median(result["seconds"])
        line = (
            f"{label} {result['units'] / seconds:10.3f} {unit:<12} {1000 * seconds:10.2f} "
            f"{result['first']:12.1f} {result['peak']:8.0f}"
        )
        if form != "ours" and "seconds" in ours:
            rate = ours["units"] / np.median(ours["seconds"])
            line += f"  {rate * seconds / result['units']:.2f}x as fast"
            if result["peak"]:
                line += f", {ours['peak'] / result['peak']:.0%} of the memory"
            largest = max(map(abs, result["sample"]), default=0)
            if largest and ours["sample"]:
                difference = np.abs(np.subtract(result["sample"], ours["sample"])).max()
                line += f", equal to {difference / largest:.0e}"
        print(line, flush=True)
    if "device" in ours:
        print(f"{'':<12} on {ours['device']}", flush=True)


def work(row, form, sizes, precision):
    """The process of one form of a row: says what the first call took, then times a call for each line."""
    library = Ours(precision) if form in OURS else Torch(precision, compiles=form == "compiled")
    try:
        call, units = getattr(library, f"{row}_bare" if form == "bare" else row)(sizes)
        begin = time.perf_counter()
        sample = np.ravel(call())
        first = time.perf_counter() - begin
        call()
    except Exception as error:
        print(
            json.dumps({"error": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}), flush=True
        )
        return 1
    sample = sample[:: max(sample.size // 1000, 1)].astype(float).tolist()
    answer = {"units": units, "first": first, "sample": sample, "device": library.device()}
    print(json.dumps(answer), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        call()
        print(json.dumps(time.perf_counter() - begin), flush=True)
    print(json.dumps({"peak": library.peak_megabytes()}), flush=True)
    return 0


def make_images(count, size, seed=0):
    """uint8 images (count, height, width, 3), smooth, as photographs are and JPEG wants them."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, 12, 16, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(x).resize(size[::-1], Image.Resampling.BICUBIC)) for x in noise]
    )


def make_labels(count):
    return np.eye(CLASSES, dtype="float32")[np.arange(count) % CLASSES]


def correlation_input(sizes):
    """Maps and features (batch, side, side, channels) of the correlation row."""
    random = np.random.default_rng(0)
    shape = (sizes.batch, sizes.positions, sizes.positions)
    return random.random((*shape, CLASSES + 1), "float32"), random.standard_normal((*shape, 192), "float32")


def pamr_input(sizes):
    """Images and masks of the PAMR row."""
    count, side, classes = sizes.pamr
    masks = np.random.default_rng(0).random((count, side // 8, side // 8, classes), "float32")
    return make_images(count, (side, side)).astype("float32") / 255, masks


class Ours:
    """This package under the backend of Keras; a method a row gives `(call, units of one call)`."""

    def __init__(self, precision):
        import keras

        self.keras, self.precision = keras, precision
        self.backend = keras.backend.backend()
        keras.config.set_dtype_policy("float32" if precision == "float32" else f"mixed_{precision}")

    def device(self):
        if self.backend == "jax":
            import jax

            return jax.devices()[0].device_kind
        if self.backend == "torch":
            return Torch(self.precision).device()
        from wsss.inference.settings import find_device

        return find_device()

    def peak_megabytes(self):
        if self.backend == "jax":
            import jax

            return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20
        return Torch(self.precision).peak_megabytes() if self.backend == "torch" else 0

    def compiled(self, function):
        """`function` of tensors as one compiled function of NumPy arrays, which waits for its result."""
        if self.backend == "jax":
            import jax

            run = jax.jit(function)
            return lambda *arrays: jax.block_until_ready(run(*arrays))
        if self.backend == "tensorflow":
            import tensorflow as tf

            run = tf.function(function, jit_compile=True, autograph=False)
            return lambda *arrays: [
                x.numpy() for x in self.keras.tree.flatten(run(*map(tf.constant, arrays)))
            ]
        convert = self.keras.ops.convert_to_tensor
        return lambda *arrays: [
            self.keras.ops.convert_to_numpy(x)
            for x in self.keras.tree.flatten(function(*map(convert, arrays)))
        ]

    def on_device(self, array, dtype=None):
        return self.keras.ops.convert_to_tensor(array, dtype)

    def ceiling(self, sizes):
        matrix = self.on_device(np.ones((sizes.product, sizes.product)), self.precision)
        run = self.compiled(lambda x: self.keras.ops.sum(self.keras.ops.matmul(x, x)[0]))

        def call():
            run(matrix)
            return np.zeros(0)

        return call, 2 * sizes.product**3 / 1e12

    def model(self, sizes):
        """Published SEAM with weights made from their names."""
        from wsss.weights.mapping import load_tensors, published_tensors
        from wsss.weights.published import published_seam

        model = published_seam(CLASSES, width=sizes.width, dropout=False)
        shapes = {name: value.shape for name, value in published_tensors(model).items()}
        load_tensors(model, {name: weight(name, shape) for name, shape in shapes.items()})
        return model

    def network(self, sizes):
        """uint8 images to refined maps, as `CamPredictor` runs it."""
        from wsss.inference.compilation import compile_network
        from wsss.inference.fuse_batch_norm import optimize_for_inference

        return compile_network(optimize_for_inference(self.model(sizes).refined_cam), jit_compile=True)

    def forward(self, sizes):
        network, images = self.network(sizes), make_images(sizes.batch, (sizes.side, sizes.side))
        return lambda: network(images)[0], sizes.batch

    def predictor(self, sizes):
        from wsss.inference import CamPredictor

        return CamPredictor(self.model(sizes), scales=SCALES, max_side=0)

    def photo(self, sizes):
        predictor, images = self.predictor(sizes), list(make_images(sizes.photos, sizes.photo))

        def call():
            groups = (images[i : i + GROUP] for i in range(0, len(images), GROUP))
            predictions = [prediction for group in groups for prediction in predictor.predict(group)]
            return np.concatenate([cam.ravel() for cam in predictions[0].cams])

        return call, sizes.photos

    def stream(self, sizes):
        from wsss.data.images import decode_image

        predictor = self.predictor(sizes)
        files = []
        for image in make_images(sizes.photos, sizes.photo):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=90)
            files.append(file.getvalue())
        decoders, callers = ThreadPoolExecutor(os.cpu_count()), ThreadPoolExecutor(2)

        def call():
            images = list(decoders.map(decode_image, files))
            groups = [images[i : i + GROUP] for i in range(0, len(images), GROUP)]
            return np.concatenate(
                [group[0].cams[0].ravel() for group in callers.map(predictor.predict, groups)]
            )

        return call, sizes.photos

    def stream_bare(self, sizes):
        from wsss.inference.cam_scores import scaled_size

        network = self.network(sizes)
        views = [make_images(2 * GROUP, scaled_size(sizes.photo, scale)) for scale in SCALES]

        def call():
            for _ in range(0, sizes.photos, GROUP):
                for images in views:
                    network(images)
            return np.zeros(0)

        return call, sizes.photos

    def step(self, sizes):
        from wsss.backbones.base import freeze
        from wsss.backbones.resnet38 import FROZEN_STAGES

        model = self.model(sizes)
        freeze(model.network, batch_norm=True, prefixes=FROZEN_STAGES)
        optimizer = self.keras.optimizers.SGD(1e-6, momentum=0.9)
        compiles = self.backend == "jax" or (self.backend == "tensorflow" and self.device() != "cpu")
        model.compile(optimizer, loss=self.keras.losses.BinaryCrossentropy(), jit_compile=compiles)
        count = sizes.batch * sizes.steps
        images = make_images(count, (sizes.side, sizes.side)).astype("float32") / 255
        options = {"batch_size": sizes.batch, "shuffle": False, "verbose": 0}
        labels = make_labels(count)

        def call():
            history = model.fit(images, labels, **options).history
            return np.array(history["classification_loss"])

        return call, count

    def correlation(self, sizes):
        from wsss.ops.correlation import pixel_correlation

        cam, feature = correlation_input(sizes)
        loss = lambda feature, cam: self.keras.ops.sum(pixel_correlation(cam, feature) * cam)  # noqa: E731
        run = self.compiled(self.gradient(loss))
        cam, feature = self.on_device(cam), self.on_device(feature)
        return lambda: np.asarray(self.keras.tree.flatten(run(feature, cam))[0]), 1

    def gradient(self, loss):
        """The gradient of `loss(x, constant)` in `x`."""
        if self.backend == "jax":
            import jax

            return jax.grad(loss)
        if self.backend == "tensorflow":
            import tensorflow as tf

            def of_tensorflow(x, constant):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    value = loss(x, constant)
                return tape.gradient(value, x)

            return of_tensorflow

        def of_torch(x, constant):
            import torch

            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(loss(x, constant), x)[0]

        return of_torch

    def pamr(self, sizes):
        from wsss.ops.pamr import refine_masks

        run = self.compiled(lambda images, masks: refine_masks(images, masks))
        images, masks = map(self.on_device, pamr_input(sizes))
        return lambda: np.asarray(self.keras.tree.flatten(run(images, masks))[0]), sizes.pamr[0]


class Torch:
    """The same in PyTorch, with the network of `benchmarks.torch_seam`."""

    def __init__(self, precision, compiles=False):
        import torch

        self.torch, self.compiles = torch, compiles
        self.dtype = getattr(torch, precision)
        self.cuda = torch.cuda.is_available()
        self.target = torch.device("cuda" if self.cuda else "cpu")
        torch.backends.cudnn.benchmark = True

    def device(self):
        return self.torch.cuda.get_device_name() if self.cuda else "cpu"

    def peak_megabytes(self):
        return self.torch.cuda.max_memory_allocated() / 2**20 if self.cuda else 0

    def compiled(self, function):
        return self.torch.compile(function) if self.compiles else function

    def on_device(self, array):
        return self.torch.from_numpy(np.ascontiguousarray(array)).to(self.target)

    def autocast(self):
        mixed = self.dtype != self.torch.float32
        return self.torch.autocast(self.target.type, self.torch.bfloat16, enabled=mixed)

    def ceiling(self, sizes):
        matrix = self.torch.ones((sizes.product, sizes.product), dtype=self.dtype, device=self.target)

        def call():
            self.torch.mm(matrix, matrix)[0].sum().item()
            return np.zeros(0)

        return call, 2 * sizes.product**3 / 1e12

    def model(self, sizes):
        from benchmarks.torch_seam import TorchSEAM

        model = TorchSEAM(CLASSES, sizes.width).eval()
        state = model.state_dict()
        for name, value in state.items():
            if not name.endswith("num_batches_tracked"):
                state[name] = self.torch.from_numpy(weight(name, tuple(value.shape)))
        model.load_state_dict(state)
        return model.to(self.target, memory_format=self.torch.channels_last)

    def as_input(self, images):
        """uint8 (batch, height, width, 3) on the host to normalized images on the device, channels last."""
        mean = self.torch.tensor((0.485, 0.456, 0.406), device=self.target)[:, None, None]
        deviation = self.torch.tensor((0.229, 0.224, 0.225), device=self.target)[:, None, None]
        x = self.on_device(images).permute(0, 3, 1, 2) / 255
        return ((x - mean) / deviation).contiguous(memory_format=self.torch.channels_last)

    def network(self, sizes):
        run = self.compiled(self.model(sizes))

        def network(images):
            with self.torch.inference_mode(), self.autocast():
                return run(self.as_input(images))[1][:, 1:].float().cpu().numpy()

        return network

    def forward(self, sizes):
        network, images = self.network(sizes), make_images(sizes.batch, (sizes.side, sizes.side))
        return lambda: np.moveaxis(network(images), 1, -1), sizes.batch

    def photo(self, sizes):
        from wsss.inference.cam_scores import scaled_size
        from wsss.inference.predictor import resize_image

        network, images = self.network(sizes), list(make_images(sizes.photos, sizes.photo))

        def predict(group):
            for scale in SCALES:
                batch = np.stack([resize_image(x, scaled_size(sizes.photo, scale)) for x in group])
                cams, mirrored = np.split(network(np.concatenate([batch, batch[:, :, ::-1]])), 2)
                yield cams + mirrored[..., ::-1]

        def call():
            groups = [list(predict(images[i : i + GROUP])) for i in range(0, len(images), GROUP)]
            return np.concatenate([cams[0].ravel() for cams in groups[0]])

        return call, sizes.photos

    def step(self, sizes):
        from benchmarks.torch_seam import seam_loss

        model = self.model(sizes)
        learned = [p for p in model.parameters() if p.requires_grad]
        optimizer = self.torch.optim.SGD(learned, lr=1e-6, momentum=0.9)
        run = self.compiled(lambda x, y: seam_loss(model, x, y))
        images = make_images(sizes.batch * sizes.steps, (sizes.side, sizes.side))
        labels = self.on_device(make_labels(len(images)))

        def call():
            for start in range(0, len(images), sizes.batch):
                part = slice(start, start + sizes.batch)
                optimizer.zero_grad()
                with self.autocast():
                    loss = run(self.as_input(images[part]), labels[part])
                loss.backward()
                optimizer.step()
            return np.full(0, loss.item())

        return call, len(images)

    def correlation(self, sizes):
        from benchmarks.torch_seam import correlate

        cam, feature = (self.on_device(np.moveaxis(x, -1, 1)) for x in correlation_input(sizes))
        feature.requires_grad_(True)
        run = self.compiled(lambda feature: (correlate(cam, feature) * cam).sum())

        def call():
            (gradient,) = self.torch.autograd.grad(run(feature), feature)
            return np.moveaxis(gradient.cpu().numpy(), 1, -1)

        return call, 1

    def pamr(self, sizes):
        from benchmarks.torch_seam import pamr

        images, masks = (self.on_device(np.moveaxis(x, -1, 1)) for x in pamr_input(sizes))
        run = self.compiled(pamr)

        def call():
            with self.torch.inference_mode():
                return np.moveaxis(run(images, masks).cpu().numpy(), 1, -1)

        return call, sizes.pamr[0]


if __name__ == "__main__":
    sys.exit(main())
