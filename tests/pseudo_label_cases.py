"""A tiny collection and a tiny model on disk, and what a test of the pipeline asks about its output."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.common import io
from wsss.data.dataset import shard_name, write_metadata
from wsss.data.images import encode_mask
from wsss.data.records import Record, format_example
from wsss.data.tfrecord import write_records

CLASS_NAMES = ("cat", "dog", "cow")
FLAGS = ("--runner=DirectRunner", "--scales", "0.5,1", "--previews", "2")
SIZES = ((24, 32), (32, 24), (24, 32), (17, 23))


def make_records(count=12, seed=0):
    """Records of noise images in a few sizes, with tags and a mask of blocks that agree."""
    rng = np.random.default_rng(seed)
    records = []
    for index in range(count):
        height, width = SIZES[index % len(SIZES)]
        image = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        labels = tuple(sorted(rng.choice(3, index % 3, replace=False).tolist()))
        mask = np.zeros((height, width), np.uint8)
        for position, label in enumerate(labels):
            mask[4:16, 4 + 8 * position : 10 + 8 * position] = label + 1
        mask[0, 0] = 255
        stream = BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        records.append(
            Record(f"image_{index:02d}", stream.getvalue(), labels, height, width, 1, encode_mask(mask))
        )
    return records


def corrupt(record):
    """The record with the end of its image missing."""
    return replace(record, image_bytes=record.image_bytes[: len(record.image_bytes) // 2])


def write_collection(folder, records, shards=3, class_names=CLASS_NAMES):
    """Writes records as a collection of one split, `train`."""
    members = [records[index::shards] for index in range(shards)]
    size = 0
    for index, member in enumerate(members):
        path = io.join(folder, shard_name("tiny", "train", index, shards))
        size += write_records(path, map(format_example, member))[1]
    return write_metadata(
        folder,
        name="tiny",
        class_names=class_names,
        shard_lengths={"train": [len(member) for member in members]},
        split_bytes={"train": size},
        has_masks=records[0].mask_bytes is not None,
    )


def write_run(folder, data, classes=3):
    """Writes an untrained SEAM as a run directory."""
    import keras

    from wsss.backbones.tiny import small_backbone
    from wsss.models.seam import SEAM

    keras.utils.set_random_seed(0)
    backbone = small_backbone(8, width=8)
    model = SEAM(backbone.input, backbone.feature, classes)
    model.save(Path(folder) / "model.keras")
    config = {"class_names": list(CLASS_NAMES), "data": str(data), "split": "train"}
    io.write_json(io.join(folder, "config.json"), config)
    return folder


def write_segmentation_run(folder, data, classes=3):
    """Writes an untrained DeepLab as a run directory."""
    import keras

    from wsss.backbones.tiny import small_backbone
    from wsss.models.deeplab import DeepLab

    keras.utils.set_random_seed(0)
    backbone = small_backbone(8, width=8)
    DeepLab.from_backbone(backbone, classes, channels=8, rates=(1,)).save(Path(folder) / "model.keras")
    options = {"model": "deeplab"}
    config = {"class_names": list(CLASS_NAMES), "data": str(data), "split": "train", "options": options}
    io.write_json(io.join(folder, "config.json"), config)
    return folder


def write_affinity_run(folder):
    """Writes an untrained AffinityNet as a run directory."""
    import keras

    from wsss.backbones.tiny import small_backbone
    from wsss.models.affinity_net import AffinityNet, affinity_feature

    keras.utils.set_random_seed(0)
    backbone = small_backbone(8, width=8)
    stages = list(backbone.stages.values())[-3:]
    feature = affinity_feature(*stages, channels=(4, 4, 4))
    AffinityNet(backbone.input, feature, radius=3).save(Path(folder) / "model.keras")
    return folder


def write_edge_run(folder):
    """Writes an untrained IRNet as a run directory."""
    import keras

    from wsss.backbones.tiny import small_backbone
    from wsss.models.irn import IRNet

    keras.utils.set_random_seed(0)
    IRNet(small_backbone(8, width=8)).save(Path(folder) / "model.keras")
    return folder


def tree(folder):
    """Relative path -> bytes of every file in a folder."""
    folder = Path(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def label(output, run, *flags):
    """Runs the program on a run's own data, with `FLAGS` and others; its exit code."""
    from wsss.pseudo_labels import main

    return main([*FLAGS, "--model", run, "--output", str(output), "--save_scores", *flags])
