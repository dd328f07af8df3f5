"""The kinds of files that `benchmarks.fuzz` changes, and what reads each."""

import contextlib
import io as streams
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.common import output_folder
from wsss.common.errors import UserError
from wsss.data.dataset import open_collection
from wsss.data.images import BadImage, decode_image, decode_mask, encode_mask, inspect_image, voc_palette
from wsss.data.records import parse_example
from wsss.data.sources.coco import read_coco
from wsss.data.sources.folder import make_record
from wsss.data.sources.label_table import parse_class_names, parse_label_table
from wsss.data.sources.voc import read_voc
from wsss.data.synthetic import write_synthetic_collection
from wsss.data.tfrecord import encode_example, read_records
from wsss.pipeline.dead_letter import Failure
from wsss.pipeline.job.relabeling import options_of_relabeling
from wsss.pipeline.options import LabelOptions
from wsss.pipeline.output import OWNED, ImageScores, LabelSettings, Layout, decode_scores, encode_scores
from wsss.pipeline.stages.manifest import Manifest, RecordFile, read_manifests
from wsss.pipeline.stages.score import Tally
from wsss.pipeline.stages.threshold import read_threshold
from wsss.pipeline.trained_run import open_trained_run
from wsss.training import state
from wsss.training.options import TrainingOptions
from wsss.training.run_dir import open_run
from wsss.weights import read_tensors


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        seeds: valid examples.
        read: reads one.
        refusals: exceptions by which it may refuse one.
        form: "bytes", "text" or "json", which says how an example is changed.
    """

    seeds: list[bytes]
    read: Callable[[bytes], object]
    refusals: tuple = (UserError,)
    form: str = "bytes"


def encoded(form: str, size=(13, 9), **options) -> bytes:
    """Bytes of a small picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = streams.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def read_image(data):
    inspect_image(data)
    decode_image(data)


def read_table(data):
    parse_label_table(data.decode("utf-8-sig", "replace"))


def read_names(data):
    parse_class_names(data.decode("utf-8-sig", "replace"))


def through_file(path: Path, read: Callable[[], object]):
    """A reader of bytes that puts them in the place of a file first."""

    def read_bytes(data):
        path.write_bytes(data)
        return read()

    return read_bytes


def read_coco_masks(folder):
    listing = read_coco(folder)
    image = encoded("PNG", size=(8, 8))
    for item in listing.items:
        with contextlib.suppress(BadImage):  # counted by `wsss.prepare`, image by image
            make_record(item, image, None, classes=len(listing.class_names), has_masks=True)


def image_readers(folder: Path) -> dict[str, Reader]:
    images = [encoded(form) for form in ("PNG", "JPEG", "BMP", "GIF")]
    masks = [encode_mask(np.eye(9, dtype=np.uint8)), encode_mask(np.eye(9, dtype=np.uint8), voc_palette())]
    return {
        "image": Reader(images, read_image, (BadImage,)),
        "mask": Reader(masks, decode_mask, (BadImage,)),
    }


def table_readers(folder: Path) -> dict[str, Reader]:
    tables = [
        b"id,cat,dog\na,1,0\nb,0,1\n",
        b"id,split,labels\na,train,cat dog\nb,val,\n",
        b"id;labels\na;\"['cat', 'dog']\"\nb;[]\n",
    ]
    coco = folder / "coco" / "annotations" / "instances_train.json"
    coco.parent.mkdir(parents=True)
    (folder / "coco" / "train").mkdir()
    polygon = {"id": 1, "image_id": 1, "category_id": 3, "area": 9, "iscrowd": 0, "bbox": [0, 0, 3, 3]}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 8}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {**polygon, "segmentation": [[0, 0, 5, 0, 5, 5]]},
            {**polygon, "id": 2, "iscrowd": 1, "segmentation": {"size": [8, 8], "counts": "0@"}},
            {**polygon, "id": 3, "iscrowd": 1, "segmentation": {"size": [8, 8], "counts": [10, 4, 50]}},
        ],
    }
    voc = folder / "VOC2012"
    for name in ("Annotations", "ImageSets/Main", "ImageSets/Segmentation", "JPEGImages"):
        (voc / name).mkdir(parents=True)
    (voc / "JPEGImages" / "a.jpg").write_bytes(encoded("JPEG"))
    for name in ("Main", "Segmentation"):
        (voc / "ImageSets" / name / "train.txt").write_text("a\n")
    xml = b"<annotation><object><name>cat</name></object><object><name>dog</name></object></annotation>"
    annotation = voc / "Annotations" / "a.xml"
    return {
        "table": Reader(tables, read_table, (ValueError,), form="text"),
        "class_names": Reader([b"cat\ndog\n"], read_names, (ValueError,), form="text"),
        "coco": Reader(
            [json.dumps(content).encode()],
            through_file(coco, lambda: read_coco_masks(str(folder / "coco"))),
            form="json",
        ),
        "voc": Reader([xml], through_file(annotation, lambda: read_voc(str(voc))), form="text"),
    }


def record_readers(folder: Path) -> dict[str, Reader]:
    collection = write_synthetic_collection(str(folder / "drawn"), images=2, size=32)
    shard = Path(collection.shard_paths("train")[0])
    info, features = (folder / "drawn" / name for name in ("dataset_info.json", "features.json"))
    whole = {path: path.read_bytes() for path in (shard, info, features)}
    record = next(read_records(str(shard)))
    sizes = {"height": 9, "width": 13, "orientation": 1}
    own = encode_example({"image": encoded("PNG"), "image_id": b"a", "labels": [1], **sizes})

    def opens(path):
        def read():
            try:
                opened = open_collection(str(folder / "drawn"))
                for split in opened.shard_lengths:
                    opened.shard_paths(split)
            finally:
                path.write_bytes(whole[path])

        return through_file(path, read)

    return {
        "record": Reader([record, own], parse_example, (ValueError,)),
        "shard": Reader(
            [whole[shard]],
            through_file(folder / "fuzzed.tfrecord", lambda: list(read_records(folder / "fuzzed.tfrecord"))),
            (ValueError,),
        ),
        "dataset_info": Reader([whole[info]], opens(info), form="json"),
        "features": Reader([whole[features]], opens(features), form="json"),
    }


def _label_options_reader(folder: Path) -> Reader:
    """`options.json` of labels, as masks are made anew with."""
    label_options = LabelOptions(
        model="m", data="d", split="train", scales=(1.0,), cam="cam", min_side=0, save_scores=True
    )
    output_folder.claim(str(folder), "pseudo_labels", owned=OWNED).begin()
    made_with = LabelSettings(label_options.recorded(), "hash", ("cat",))
    path = folder / "options.json"
    return Reader(
        [json.dumps(made_with.to_json()).encode()],
        through_file(path, lambda: options_of_relabeling(str(folder))),
        form="json",
    )


def output_readers(folder: Path) -> dict[str, Reader]:
    layout = Layout(str(folder / "labels"))
    failure = Failure("s", "b", "read", "gone", False)
    manifest = Manifest("s", "9-00", Tally(images=1, failures=(failure,)), ("a",), RecordFile(1, 9, "r"))
    manifests = [json.dumps(manifest.to_json()).encode()]
    path, threshold = Path(layout.manifest("s")), folder / "threshold.json"
    path.parent.mkdir(parents=True)
    planes = np.random.default_rng(0).random((2, 5, 4), np.float32)
    scores = encode_scores(planes, [0, 2])
    by_model = ImageScores((0, 2), planes, np.ones(3, np.float32), np.ones(2, np.float32), planes[0])
    marker = folder / "ours" / output_folder.MARKER
    output_folder.claim(marker.parent, "run", owned=("model.keras",)).begin()
    run = folder / "run"
    run.mkdir()
    (run / "model.keras").write_bytes(b"")
    options = TrainingOptions(output=str(run), overwrite=False)
    config = {"program": "wsss.train", "options": asdict(options), "class_names": ["cat"]}
    checkpoint = folder / "state.npz"
    state.save(str(checkpoint), [np.ones((3, 2), np.float32), np.arange(4)], state.Progress(1, 2))
    return {
        "manifest": Reader(manifests, through_file(path, lambda: read_manifests(layout)), form="json"),
        "threshold": Reader(
            [b'{"threshold": 0.3, "pixels": 4}'],
            through_file(threshold, lambda: read_threshold(str(threshold))),
            form="json",
        ),
        "scores": Reader([scores], decode_scores, (ValueError,)),
        "image_scores": Reader([by_model.encode()], ImageScores.decode, (ValueError,)),
        "label_options": _label_options_reader(folder / "scored"),
        "marker": Reader(
            [marker.read_bytes()],
            through_file(marker, lambda: output_folder.claim(marker.parent, "run", owned=("model.keras",))),
            form="json",
        ),
        "config": Reader(
            [json.dumps(config).encode()],
            through_file(run / "config.json", lambda: (open_trained_run(str(run)), open_run(options))),
            form="json",
        ),
        "checkpoint": Reader(
            [checkpoint.read_bytes()],
            through_file(checkpoint, lambda: state.read_progress(str(checkpoint))),
        ),
    }


def weight_readers(folder: Path) -> dict[str, Reader]:
    def read(data):
        return read_tensors(streams.BytesIO(data))

    head = struct.pack("<QQQ", 0x112, 0, 1)
    array = struct.pack("<IiI", 0xF993FAC9, 0, 1) + struct.pack("<qiiiff", 2, 1, 0, 0, 1.0, 2.0)
    params = head + array + struct.pack("<QQ", 1, 10) + b"arg:weight"
    return {
        "pth": Reader([torch_zip(), torch_legacy()], read),
        "params": Reader([params], read),
    }


def torch_tree() -> bytes:
    """The pickle of `{"w": a tensor of two numbers}` as PyTorch writes it, opcode by opcode."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x02\x85K\x01\x85\x89"
    return b"\x80\x02}q\x00X\x01\x00\x00\x00w" + tensor + b"ccollections\nOrderedDict\n)RtRs."


def torch_zip() -> bytes:
    stream = streams.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", torch_tree())
        archive.writestr("archive/data/0", np.ones(2, np.float32).tobytes())
    return stream.getvalue()


def torch_legacy() -> bytes:
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    head = b"".join(pickle.dumps(value, 2) for value in parts)
    numbers = struct.pack("<q", 2) + np.ones(2, np.float32).tobytes()
    return head + torch_tree() + pickle.dumps(["0"], 2) + numbers


def keras_readers(folder: Path) -> dict[str, Reader]:
    """Models load in a tenth of a second: they get their share of the time, and thus fewer inputs."""
    import keras

    from wsss.inference.loading import load_model

    path = folder / "small.keras"
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)]).save(path)
    return {"keras": Reader([path.read_bytes()], through_file(path, lambda: load_model(str(path))))}


MAKERS = (image_readers, table_readers, record_readers, output_readers, weight_readers)
