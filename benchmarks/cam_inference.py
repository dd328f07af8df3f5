"""CAMs of photographs at four scales and their mirrors: our way against a loop over images, scales, mirrors.

    python -m benchmarks.cam_inference [--quick] [--images DIR] [--backbone_weights FILE]

By default MobileNetV2 with its ImageNet weights on photographs of MSRC, both from `$WSSS_SHARED/data`; where
these are missing the table says so, and random weights and noise take their place. The baseline is what one
would write first with the same model: for each image, scale and mirror one call of the network, compiled once
for all sizes; every map of all classes resized to the scaled image, then to the image, flipped back and
summed. `predict` is the same loop with `keras.Model.predict`, and `tiled` is ours with every call tiled, as
`--max_activation_memory` does for large ones. All ways run in turn, in one process, and give the same sums;
the difference is relative to the largest value.
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.memory import peak_megabytes
from wsss.inference import CamPredictor
from wsss.inference.cam_scores import merge_scales

SCALES = (0.5, 1.0, 1.5, 2.0)
WAYS = ("predict", "loop", "ours", "tiled")
SHARED = Path(os.environ.get("WSSS_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.cam_inference", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small images and network, two rounds")
    parser.add_argument("--images", default=str(SHARED / "msrc_v2" / "images"), help="folder of photographs")
    parser.add_argument(
        "--backbone_weights",
        default=str(SHARED / "weights" / "mobilenet_v2_imagenet_notop.weights.h5"),
        help="of MobileNetV2, or a .keras file of another backbone",
    )
    parser.add_argument("--count", type=int, default=8, help="images a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8, help="images a batch, ours")
    parser.add_argument("--memory_of", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.quick:
        options.count, options.rounds = 4, 2
    images = _images(options)
    ways = _ways(_model(options), options.batch)
    if options.memory_of:
        ways[options.memory_of](images)
        print(round(peak_megabytes()))
        return 0
    results = {name: way(images) for name, way in ways.items()}  # also warms up
    times, cpu_times = {name: [] for name in ways}, {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            way(images)
            times[name].append(time.perf_counter() - start)
            cpu_times[name].append(time.process_time() - cpu_start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{len(images)} images, median of {options.rounds} interleaved rounds")
    print("way       images/s  against loop  against predict  CPU s/image  max difference")
    for name in WAYS:
        pairs = zip(results[name], results["loop"], strict=True)
        error = max(np.abs(ours - theirs).max() / np.abs(theirs).max() for ours, theirs in pairs)
        rate = len(images) / medians[name]
        loop, predict = (medians[other] / medians[name] for other in ("loop", "predict"))
        cpu = statistics.median(cpu_times[name]) / len(images)
        print(f"{name:8} {rate:9.2f} {loop:12.2f}x {predict:15.2f}x {cpu:12.3f} {error:15.1e}", flush=True)
    if not options.quick:
        for name in WAYS:
            print(f"peak memory of a process with {name}: {_peak_memory(name, options)} MB", flush=True)
    return 0


def _ways(model, batch):
    import tensorflow as tf

    spec = tf.TensorSpec((1, None, None, 3), tf.float32)
    compiled = tf.function(
        lambda x: model.refined_cam(x, training=False), input_signature=[spec], autograph=False
    )
    predictors = {
        "ours": CamPredictor(model, scales=SCALES),
        "tiled": CamPredictor(model, scales=SCALES, max_activation_memory=0),
    }

    def ours(images, name):
        predictor = predictors[name]
        groups = {}
        for index, image in enumerate(images):
            groups.setdefault(image.shape, []).append(index)
        scores = [None] * len(images)
        for members in groups.values():
            for start in range(0, len(members), batch):
                part = members[start : start + batch]
                predictions = predictor.predict([images[index] for index in part])
                for index, prediction in zip(part, predictions, strict=True):
                    class_ids = _labels(index)
                    cams = [cam[class_ids] for cam in prediction.cams]
                    size = images[index].shape[:2]
                    scores[index] = merge_scales(cams, prediction.scaled_sizes, size)
        return scores

    return {
        "predict": lambda images: _loop(images, lambda x: model.refined_cam.predict(x, verbose=0)),
        "loop": lambda images: _loop(images, compiled),
        "ours": functools.partial(ours, name="ours"),
        "tiled": functools.partial(ours, name="tiled"),
    }


def _loop(images, call):
    """The loop; the maps of all classes are resized by TensorFlow's own kernels."""
    import tensorflow as tf

    def enlarge(cam, scaled, size):
        scaled_cam = tf.raw_ops.ResizeBilinear(images=cam, size=scaled, align_corners=True)
        return tf.image.resize(scaled_cam, size)[0].numpy()

    scores = []
    for index, image in enumerate(images):
        height, width = image.shape[:2]
        summed = 0
        for scale in SCALES:
            size = (round(height * scale), round(width * scale))
            scaled = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
            for mirrored in (False, True):
                x = scaled[:, ::-1] if mirrored else scaled
                cam = enlarge(call(np.float32(x)[None] / 255), size, (height, width))
                summed = summed + (cam[:, ::-1] if mirrored else cam)
        scores.append(summed[:, :, _labels(index)].transpose(2, 0, 1))
    return scores


def _labels(index):
    """One or two of the classes, as photographs have."""
    return [index % 20] if index % 2 else [index % 20, (index + 7) % 20]


def _model(options):
    import keras

    from wsss.backbones.applications import build_backbone
    from wsss.backbones.tiny import small_backbone
    from wsss.models.seam import SEAM

    keras.utils.set_random_seed(0)
    weights = options.backbone_weights
    if options.quick:
        backbone = small_backbone(16, width=8)
    elif weights.endswith(".keras"):
        backbone = build_backbone(weights)
    else:
        found = Path(weights).is_file()
        if not found:
            print(f"random weights: there is no {weights}")
        backbone = build_backbone("MobileNetV2", weights=weights if found else "none")
    return SEAM(backbone.input, backbone.feature, 20, correlation_feature=backbone.correlation_feature())


def _images(options):
    paths = sorted(Path(options.images).glob("*.jp*g"))[: options.count]
    if not paths and not options.quick:
        print(f"noise of 375 x 500: there are no photographs in {options.images}")
    if paths and not options.quick:
        return [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    size = (94, 125) if options.quick else (375, 500)
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(options.count)]


def _peak_memory(name, options):
    command = [sys.executable, "-m", "benchmarks.cam_inference", "--memory_of", name]
    command += ["--count", str(options.count), "--batch", str(options.batch), "--images", options.images]
    command += ["--backbone_weights", options.backbone_weights]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    raise SystemExit(main())
