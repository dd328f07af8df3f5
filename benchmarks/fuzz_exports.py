"""The data sets that `benchmarks.fuzz` changes: those that `wsss.export` writes, read by `wsss.prepare`."""

import json
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.fuzz_readers import Reader, encoded, through_file
from wsss.common.errors import UserError, one_line
from wsss.data.targets.base import MaskedImage
from wsss.pipeline import preparation
from wsss.pipeline.export import TARGETS
from wsss.pipeline.stages.collection import write_shard

SIZE = (13, 9)  # height and width of the photographs
SOURCES = {"labelstudio": "label_studio", "cvat": "voc"}  # the option of `wsss.prepare`, where it is another
FILES = {  # those of each format that are changed, and their form
    "coco": {"annotations/instances_train.json": "json"},
    "voc": {"class_names.txt": "text"},
    "mmseg": {"metainfo.json": "json", "ann_dir/train/a.png": "bytes"},
    "fiftyone": {"mask_targets.json": "json", "train/labels/a.png": "bytes"},
    "yolo": {"data.yaml": "text", "class_names.txt": "text", "labels/train/a.txt": "text"},
    "labelstudio": {"tasks.json": "json", "class_names.txt": "text"},
    "cvat": {
        "labelmap.txt": "text",
        "SegmentationClass/a.png": "bytes",
        "ImageSets/Segmentation/train.txt": "text",
    },
}


def export_readers(folder: Path) -> dict[str, Reader]:
    """A kind for each file of each format, such as `yolo/data.yaml`."""
    readers = {}
    for form, files in FILES.items():
        directory = folder / "exports" / form
        write_export(form, directory)
        for name, kind in files.items():
            path = directory / name
            readers[f"{form}/{path.name}"] = reader_of(form, directory, path, kind)
    polygons(readers["labelstudio/tasks.json"])
    return readers


def write_export(form: str, directory: Path) -> None:
    """Two photographs with masks, in a format; YOLO's own `data.yaml` is left to name the classes."""
    scene = np.kron([[0, 1, 2], [2, 255, 1]], np.ones((7, 3), np.uint8))[: SIZE[0], : SIZE[1]]
    with TARGETS[form](str(directory), ("cat", "dog")) as target:
        for name, mask in (("a", scene), ("b", scene[::-1])):
            image = MaskedImage(name, "train", encoded("PNG", SIZE), mask.astype(np.uint8))
            target.add(target.encode(image))


def reader_of(form: str, directory: Path, path: Path, kind: str) -> Reader:
    """Prepares the data set with one of its files changed, and puts the file back."""
    whole = path.read_bytes()
    names = directory / "class_names.txt"
    own_names = names.read_bytes() if names.exists() and path != names else None

    def read():
        if own_names:  # which would go before the names in the other files
            names.unlink()
        try:
            prepare(SOURCES.get(form, form), directory)
        finally:
            path.write_bytes(whole)
            if own_names:
                names.write_bytes(own_names)

    return Reader([whole], through_file(path, read), form=kind)


def prepare(source: str, directory: Path) -> None:
    """Makes a collection of a data set, without Beam; what is one line for the user is a refusal."""
    output = directory.with_name(f"{directory.name}_prepared")
    try:
        with mock.patch.object(preparation, "_run", lambda plans, _: [write_shard(plan) for plan in plans]):
            preparation.prepare_collection(str(output), overwrite=True, **{source: str(directory)})
    except Exception as error:
        line = one_line(error)
        if line is None:
            raise
        raise UserError(line) from error


def polygons(reader: Reader) -> None:
    """Adds tasks with a polygon that was drawn, as Label Studio gives it back."""
    tasks = json.loads(reader.seeds[0])
    polygon = {"points": [[0, 0], [50, 0], [50, 100], [0, 100]], "polygonlabels": ["dog"]}
    size = {"original_width": SIZE[1], "original_height": SIZE[0]}
    drawn = {"type": "polygonlabels", "value": polygon, **size}
    tasks[0]["annotations"] = [{"result": [drawn]}, {"was_cancelled": True, "result": []}]
    reader.seeds.append(json.dumps(tasks).encode())
