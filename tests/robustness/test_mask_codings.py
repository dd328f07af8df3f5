"""Data sets of TFDS whose masks are coded in another way: every program refuses them and says what to do."""

import io as streams

import numpy as np
import pytest
from PIL import Image

from tests.data.test_images import encoded, picture
from tests.test_prepare import tfds_collection
from wsss import export_masks, train_model
from wsss.common.errors import UserError
from wsss.data.dataset import open_collection
from wsss.data.images import encode_mask, voc_palette
from wsss.pipeline.evaluation import open_masks
from wsss.pipeline.stages.read import open_images
from wsss.prepare import main as prepare

TAGS = {"a": (0,), "b": (1,), "c": ()}


def plain(numbers):
    """A mask of the tags: the first class is 1."""
    mask = np.zeros((7, 12), np.uint8)
    for number in numbers:
        mask[2:5, 3:9] = number + 1
    return mask


def saved(image):
    stream = streams.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def reordered(mask):
    """A palette mask of PASCAL VOC's colors whose numbers are counted from the end."""
    image = Image.fromarray((9 - mask).astype(np.uint8)).convert("P")
    image.putpalette(voc_palette()[[*range(9, -1, -1)]].tobytes())
    return saved(image)


CODINGS = {
    "16 bits": (lambda mask: saved(Image.fromarray(mask.astype(np.uint16))), "mode I"),
    "RGB": (lambda mask: saved(Image.fromarray(voc_palette()[mask])), "colors of their palette"),
    "another palette": (reordered, "colors of their palette"),
    "swapped numbers": (lambda mask: encode_mask(np.array([0, 2, 1], np.uint8)[mask]), "images contradict"),
    "0 and 255": (lambda mask: encode_mask(np.where(mask, 255, 0).astype(np.uint8)), "0 and 255 alone"),
    "missing": (lambda mask: b"" if mask.any() else encode_mask(mask), "The file is empty"),
    "damaged": (lambda mask: encode_mask(mask)[:-20], "checksum"),
    "JPEG": (lambda mask: encoded(picture()), "is a JPEG"),
}


def write(folder, code):
    masks = {name: code(plain(tags)) for name, tags in TAGS.items()}
    tfds_collection(folder, list(TAGS.items()), masks=masks)
    return str(folder)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("program", ["train", "label", "evaluate", "export"])
def test_masks_that_are_coded_otherwise_are_refused(tmp_path, coding, program):
    code, message = CODINGS[coding]
    data, output = write(tmp_path / "data", code), str(tmp_path / "output")
    run = {
        "train": lambda: train_model(data, output, val_split="train"),
        "label": lambda: open_images(data, "train"),
        "evaluate": lambda: open_masks(data),
        "export": lambda: export_masks(data, output, format="voc"),
    }[program]
    with pytest.raises(UserError, match=message):
        run()
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("coding", ["RGB", "another palette"])
def test_prepare_reads_masks_by_their_colors(tmp_path, coding):
    data = write(tmp_path / "data", CODINGS[coding][0])
    assert prepare(["--tfds", data, "--output", str(tmp_path / "shards")]) == 0
    for record in open_collection(str(tmp_path / "shards")).read("train"):
        np.testing.assert_array_equal(record.mask, plain(TAGS[record.image_id]))


@pytest.mark.parametrize("coding", ["16 bits", "missing", "damaged", "JPEG"])
def test_prepare_lists_the_masks_that_cannot_be_read(tmp_path, coding):
    data = write(tmp_path / "data", CODINGS[coding][0])
    code = prepare(["--tfds", data, "--output", str(tmp_path / "shards")])
    kept = len(list(open_collection(str(tmp_path / "shards")).read("train"))) if code == 0 else 0
    listed = (tmp_path / "shards" / "errors.jsonl").read_text().splitlines()
    assert kept + len(listed) == len(TAGS)
    assert listed
