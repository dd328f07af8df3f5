"""Augmented training images a second: our input pipeline against the loop that one would write with Pillow.

    python -m benchmarks.input_pipeline [--quick] [--data DIR] [--image_size 224]

Both do what the published protocol says: decode, resize the long side (bicubic, antialiased), mirror, jitter
brightness, contrast, saturation and hue in random order, crop with padding, to float32. `loop` is one thread
of Pillow and NumPy, `threads` maps the same function over as many threads as there are processors. `ours` is
`training_dataset`, `cached` the same with the decoded images in memory. The ways take turns, and nothing runs
ahead between them; of tf.data the time counts from the first batch on, since a training run starts it once.
Processor time separates the work itself from other load on the machine.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageEnhance

from wsss.data.augment import AUGMENTATIONS
from wsss.data.dataset import open_collection
from wsss.data.loader import training_dataset
from wsss.data.synthetic import write_synthetic_collection

PAD = (0.485, 0.456, 0.406)
JITTER = AUGMENTATIONS["published"]


def main(argv=None):
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.input_pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few small images")
    parser.add_argument("--data", help="a collection; default: drawn scenes of 480 pixels")
    parser.add_argument("--image_size", type=int, default=448, help="side of the crops, pixels; default 448")
    parser.add_argument("--count", type=int, default=96, help="images a round, at most; default 96")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; default 5")
    options = parser.parse_args(argv)
    if options.quick:
        options.image_size, options.count = 96, 32
    with tempfile.TemporaryDirectory() as scratch:
        if options.data:
            collection = open_collection(options.data)
        else:
            size, images = (128, 40) if options.quick else (480, 120)
            collection = write_synthetic_collection(scratch, images=images, size=size)
        measure(collection, options)
    return 0


def measure(collection, options):
    """Times the ways in turn and prints images a second."""
    records = list(collection.read("train"))[: options.count]
    size, processors = options.image_size, os.cpu_count()

    def loop():
        generator = np.random.default_rng(0)
        return timed(augment(record.image_bytes, generator, size) for record in records)

    def threads():
        generators = np.random.default_rng(0).spawn(len(records))
        with ThreadPoolExecutor(processors) as pool:
            return timed(
                pool.map(
                    lambda job: augment(job[0].image_bytes, job[1], size),
                    zip(records, generators, strict=True),
                )
            )

    def take(dataset):
        iterator = iter(dataset)
        next(iterator)
        return timed(image for batch, _ in iterator for image in batch)

    def ours(cache):
        batch = len(records) // 6
        dataset = training_dataset(
            collection,
            "train",
            batch_size=batch,
            image_size=size,
            pad_value=PAD,
            cache=cache,
        )
        return dataset.take(6)

    plain, cached = ours(cache=False), ours(cache=True)
    ways = {"loop": loop, "threads": threads, "ours": lambda: take(plain), "cached": lambda: take(cached)}
    for way in ways.values():
        way()  # warms up, and fills the cache
    results = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            results[name].append(way())
    medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in results.items()}
    height, width = records[0].height, records[0].width
    print(f"{len(records)} images such as {width}x{height}, crops of {size}, {processors} processors,")
    print(f"median of {options.rounds} interleaved rounds")
    print("way       images/s  against loop  processor ms an image")
    for name, (rate, work) in medians.items():
        print(f"{name:8s} {rate:9.1f} {rate / medians['loop'][0]:13.2f} {work:22.1f}")


def timed(images):
    """Takes all images: how many a second, and the milliseconds of processor time for each."""
    start, start_work = time.perf_counter(), time.process_time()
    count = sum(1 for _ in images)
    return count / (time.perf_counter() - start), 1000 * (time.process_time() - start_work) / count


def augment(data, generator, size):
    """The published augmentation, image by image, in Pillow and NumPy."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    low, high = (round(factor * size) for factor in JITTER.long_side)
    scale = generator.integers(low, high + 1) / max(image.size)
    width, height = (round(length * scale) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    if generator.random() < JITTER.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    changes = [
        lambda image: ImageEnhance.Brightness(image).enhance(factor(generator, JITTER.brightness)),
        lambda image: ImageEnhance.Contrast(image).enhance(factor(generator, JITTER.contrast)),
        lambda image: ImageEnhance.Color(image).enhance(factor(generator, JITTER.saturation)),
        lambda image: turn_hue(image, generator.uniform(-JITTER.hue, JITTER.hue)),
    ]
    for index in generator.permutation(4):
        image = changes[index](image)
    pixels = np.asarray(image, np.float32) / 255
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = PAD
    y, x = (generator.integers(0, abs(length - size) + 1) for length in (height, width))
    inside = pixels[y if height > size else 0 :, x if width > size else 0 :][:size, :size]
    top, left = (0 if height > size else y), (0 if width > size else x)
    canvas[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return canvas


def factor(generator, spread):
    return generator.uniform(1 - spread, 1 + spread)


def turn_hue(image, turn):
    hue, saturation, value = image.convert("HSV").split()
    hue = Image.fromarray(np.asarray(hue) + np.uint8(round(turn * 255) % 256))
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


if __name__ == "__main__":
    raise SystemExit(main())
