"""Mutated files against every reader: tracebacks, hangs and memory, counted by kind of file.

    python benchmarks/fuzz.py --minutes 5
    python benchmarks/fuzz.py --kind coco --seed 7 --start 1234 --inputs 1   # one input again

Baseline: 0 of each. A reader may refuse an input by the error that it documents (`UserError`, `BadImage`, or
`ValueError`); any other exception is a traceback for the user. An input over 10 seconds is a hang. Every
input follows from the seed and its number, so that one that fails can be run again. The exit code is 1 if any
fails, or if a reader refuses a valid file before any byte of it is changed: such a kind would test nothing.
"""

import argparse
import contextlib
import io as streams
import json
import pickle
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.common import output_folder
from wsss.common.errors import UserError
from wsss.data.dataset import open_collection, parse_example
from wsss.data.images import BadImage, decode_image, decode_mask, encode_mask, inspect_image, voc_palette
from wsss.data.sources.coco import read_coco
from wsss.data.sources.folder import make_record
from wsss.data.sources.label_table import parse_class_names, parse_label_table
from wsss.data.sources.voc import read_voc
from wsss.data.synthetic import write_synthetic_collection
from wsss.data.tfrecord import encode_example, read_records
from wsss.pipeline.dead_letter import Failure
from wsss.pipeline.output import Layout, decode_scores, encode_scores
from wsss.pipeline.stages.manifest import Manifest, RecordFile, read_manifests
from wsss.pipeline.stages.score import Tally
from wsss.pipeline.stages.threshold import read_threshold
from wsss.pipeline.trained_run import open_trained_run
from wsss.training import state
from wsss.training.options import TrainingOptions
from wsss.training.run_dir import open_run
from wsss.weights import read_tensors

QUICK_INPUTS = 1000  # of each kind
LONGEST = 10  # seconds an input may take
MOST_MEMORY = 1 << 30  # bytes that an input may add to the peak
WORDS = (
    *(b"", b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"99999999999999999999", b"2147483648", b'""'),
    *(b"[]", b"{}", b"[[[[", b"\x00", b"\xff\xfe", "é".encode(), b"../../x", b"\n", b",", b'"', b"<!ENTITY"),
)


class Hang(BaseException):
    """Raised by the alarm."""


@dataclass(frozen=True)
class Reader:
    """One kind of file: valid examples, the function that reads one, and what it may raise."""

    seeds: list[bytes]
    read: Callable[[bytes], object]
    refusals: tuple = (UserError,)
    text: bool = False


@dataclass
class Outcome:
    """What the inputs of a kind came to."""

    inputs: int = 0
    refused: int = 0
    valid_refused: int = 0
    hangs: int = 0
    memory: int = 0
    tracebacks: Counter = field(default_factory=Counter)

    @property
    def is_clean(self):
        return not (self.valid_refused or self.hangs or self.memory or self.tracebacks)

    @property
    def accepted(self):
        return self.inputs - self.refused - self.hangs - self.memory - self.tracebacks.total()


def mutate(seed: bytes, other: bytes, rng: random.Random, text: bool) -> bytes:
    """A valid file with some bytes changed, moved, removed or put in."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(data) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 64, len(data) // 3 + 1))
        match rng.randrange(8):
            case 0 if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 1:
                del data[place:]
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = rng.choice(WORDS)
            case 4:
                data[place : place + length] = rng.choice(WORDS)
            case 5:
                number = rng.choice((0, -1, 1, 127, 255, 2**15, 2**31 - 1, -(2**31)))
                packed = struct.pack(rng.choice("<>") + "i", number)
                data[place : place + 4] = packed if not text else str(number).encode()
            case 6:
                data[place:place] = data[place : place + length] * rng.choice((1, 2, 50))
            case 7:
                begin = rng.randrange(len(other) + 1)
                data[place : place + length] = other[begin : begin + length]
    return bytes(data)


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
        "table": Reader(tables, read_table, (ValueError,), text=True),
        "class_names": Reader([b"cat\ndog\n"], read_names, (ValueError,), text=True),
        "coco": Reader(
            [json.dumps(content).encode()],
            through_file(coco, lambda: read_coco_masks(str(folder / "coco"))),
            text=True,
        ),
        "voc": Reader([xml], through_file(annotation, lambda: read_voc(str(voc))), text=True),
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
        "dataset_info": Reader([whole[info]], opens(info), text=True),
        "features": Reader([whole[features]], opens(features), text=True),
    }


def output_readers(folder: Path) -> dict[str, Reader]:
    layout = Layout(str(folder / "labels"))
    failure = Failure("s", "b", "read", "gone", False)
    manifest = Manifest("s", "9-00", Tally(images=1, failures=(failure,)), ("a",), RecordFile(1, 9, "r"))
    manifests = [json.dumps(manifest.to_json()).encode()]
    path, threshold = Path(layout.manifest("s")), folder / "threshold.json"
    path.parent.mkdir(parents=True)
    scores = encode_scores(np.random.default_rng(0).random((2, 5, 4)), [0, 2])
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
        "manifest": Reader(manifests, through_file(path, lambda: read_manifests(layout)), text=True),
        "threshold": Reader(
            [b'{"threshold": 0.3, "pixels": 4}'],
            through_file(threshold, lambda: read_threshold(str(threshold))),
            text=True,
        ),
        "scores": Reader([scores], decode_scores, (ValueError,)),
        "marker": Reader(
            [marker.read_bytes()],
            through_file(marker, lambda: output_folder.claim(marker.parent, "run", owned=("model.keras",))),
            text=True,
        ),
        "config": Reader(
            [json.dumps(config).encode()],
            through_file(run / "config.json", lambda: (open_trained_run(str(run)), open_run(options))),
            text=True,
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


def make_readers(folder: Path, quick: bool) -> dict[str, Reader]:
    makers = [image_readers, table_readers, record_readers, output_readers, weight_readers]
    makers += [] if quick else [keras_readers]
    readers: dict[str, Reader] = {}
    for make in makers:
        readers |= make(folder)
    return readers


def run_input(reader: Reader, seed: int, number: int, outcome: Outcome) -> str | None:
    """Reads one mutated file; the traceback, or what else was wrong, or None."""
    rng = random.Random(f"{seed}:{number}")
    data = mutate(rng.choice(reader.seeds), rng.choice(reader.seeds), rng, reader.text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome.inputs += 1
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        reader.read(data)
    except Hang:
        outcome.hangs += 1
        return f"no end after {LONGEST} s"
    except reader.refusals:
        outcome.refused += 1
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome.tracebacks[f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"] += 1
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) > MOST_MEMORY:
        outcome.memory += 1
        return f"more than {MOST_MEMORY >> 20} MiB"
    return None


def count_valid_refused(reader: Reader, kind: str) -> int:
    """How many of a kind's valid files its reader refuses or fails on; prints each."""
    count = 0
    for index, data in enumerate(reader.seeds):
        try:
            reader.read(data)
        except Exception as error:
            count += 1
            print(f"--- {kind}: valid file {index} is refused: {error!r}", file=sys.stderr)
    return count


def run_kind(reader, kind, seed, start, inputs, seconds) -> Outcome:
    """Reads inputs of a kind until their number or the time is reached; prints the first of each fault."""
    outcome, shown, end = Outcome(), set(), time.monotonic() + seconds
    outcome.valid_refused = count_valid_refused(reader, kind)
    for number in range(start, start + inputs):
        problem = run_input(reader, seed, number, outcome)
        last = problem and problem.strip().splitlines()[-1]
        if problem and last not in shown:
            shown.add(last)
            print(f"--- {kind}, --seed {seed} --start {number}:\n{problem}", file=sys.stderr)
        if time.monotonic() > end:
            break
    return outcome


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=5, help="for all kinds together, > 0; default 5")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"the first {QUICK_INPUTS} inputs of each kind, however long they take, without .keras files",
    )
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--kind", default="", help="one kind only; default: all")
    parser.add_argument("--start", type=int, default=0, help="number of the first input; default 0")
    parser.add_argument("--inputs", type=int, default=10**9, help="inputs of each kind at most")
    options = parser.parse_args(argv)
    if options.quick:  # the same inputs on every machine
        options.inputs, options.minutes = min(options.inputs, QUICK_INPUTS), 60
    Image.MAX_IMAGE_PIXELS = None

    def alarm(*_):
        raise Hang

    signal.signal(signal.SIGALRM, alarm)
    with tempfile.TemporaryDirectory() as folder:
        readers = make_readers(Path(folder), options.quick)
        kinds = [options.kind] if options.kind else list(readers)
        seconds = 60 * options.minutes / len(kinds)
        print(f"seed {options.seed}")
        print(f"{'kind':14s} {'inputs':>8s} {'accepted':>8s} {'refused':>8s} {'valid_refused':>13s} ", end="")
        print(f"{'tracebacks':>10s} {'hangs':>6s} {'memory':>6s}")
        outcomes = []
        for kind in kinds:
            outcome = run_kind(readers[kind], kind, options.seed, options.start, options.inputs, seconds)
            outcomes.append(outcome)
            print(
                f"{kind:14s} {outcome.inputs:8d} {outcome.accepted:8d} {outcome.refused:8d} "
                f"{outcome.valid_refused:13d} {outcome.tracebacks.total():10d} {outcome.hangs:6d} "
                f"{outcome.memory:6d}",
                flush=True,
            )
            for place, count in outcome.tracebacks.most_common(5):
                print(f"    {count} x {place}")
    print(f"{sum(outcome.inputs for outcome in outcomes)} inputs")
    return 0 if all(outcome.is_clean for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
