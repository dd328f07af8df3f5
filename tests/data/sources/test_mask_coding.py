"""`wsss.data.sources.mask_coding`: which number in a mask's file is which class."""

import io as bytes_io
import json

import numpy as np
import pytest
from PIL import Image

from wsss.common import io
from wsss.common.errors import UserError
from wsss.data.images import BadImage, encode_mask, voc_palette
from wsss.data.sources.base import ListedImage
from wsss.data.sources.mask_coding import MaskCoding, find_mask_coding


def items(folder, *tags_and_masks):
    """Items with masks: `(tags, uint8 mask or bytes of a file)` each."""
    found = []
    for index, (tags, mask) in enumerate(tags_and_masks):
        path = str(folder / f"{index}.png")
        io.write_bytes(path, mask if isinstance(mask, bytes) else encode_mask(mask))
        found.append(ListedImage(str(index), "train", tuple(tags), f"{index}.jpg", path))
    return found


def half(number, other=0):
    mask = np.full((4, 6), other, np.uint8)
    mask[:, :3] = number
    return mask


def with_palette(mask, palette):
    image = Image.fromarray(mask)
    image = image.convert("P")
    image.putpalette(np.asarray(palette, np.uint8).tobytes())
    stream = bytes_io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def reordered(mask, order):
    """The mask with its values exchanged by `order`, old -> new, in colors that stay as they were."""
    palette = np.zeros((256, 3), np.uint8)
    values = np.zeros(256, np.uint8)
    for old, new in order.items():
        palette[new], values[old] = voc_palette()[old], new
    return with_palette(values[mask], palette)


def decoded(coding, item):
    restored = MaskCoding(**json.loads(json.dumps(coding.to_json())))  # as it travels to a worker
    return restored.decode(io.read_bytes(item.mask))


def test_masks_that_keep_the_rule_are_read_as_they_are(tmp_path):
    found = items(
        tmp_path,
        ([0], half(1)),
        ([1], half(2, 255)),
        ([], half(0)),
        ([1], encode_mask(half(2), voc_palette())),
    )
    coding, notes = find_mask_coding(found, ("cat", "dog"))
    assert (coding.values, len(coding.colors), notes) == ({}, 0, [])
    np.testing.assert_array_equal(decoded(coding, found[1]), half(2, 255))


@pytest.mark.parametrize("value", [255, 128, 2])
def test_one_class_in_another_value_is_recognized(tmp_path, value):
    found = items(tmp_path, ([0], half(value)), ([0], half(value)), ([], half(0)))
    coding, notes = find_mask_coding(found, ("cat",))
    np.testing.assert_array_equal(decoded(coding, found[0]), half(1))
    assert str(value) in notes[0]


def test_0_and_255_of_several_classes_or_of_untagged_images_are_refused(tmp_path):
    with pytest.raises(UserError, match="not certain: there are 2 classes"):
        find_mask_coding(items(tmp_path, ([0], half(255)), ([1], half(255))), ("cat", "dog"))
    with pytest.raises(UserError, match="not certain: image 1 has 255 and no tag"):
        find_mask_coding(items(tmp_path, ([0], half(255)), ([], half(255))), ("cat",))


def test_unknown_pixels_stay_unknown_where_the_class_is_drawn(tmp_path):
    found = items(tmp_path, ([0], half(1, 255)), ([0], half(255)))
    assert find_mask_coding(found, ("cat",))[0] == MaskCoding()
    assert find_mask_coding(items(tmp_path, ([0], half(255, 255))), ("cat",))[0] == MaskCoding()


def test_a_palette_in_another_order_is_undone_by_its_colors(tmp_path):
    masks = [half(1), half(2), half(2, 255)]
    orders = [{0: 1, 1: 0}, {0: 0, 2: 1}, {2: 0, 255: 1}]
    found = items(tmp_path, *(([[0], [1], [1]][i], reordered(masks[i], orders[i])) for i in range(3)))
    coding, notes = find_mask_coding(found, ("cat", "dog"))
    for item, mask in zip(found, masks):
        np.testing.assert_array_equal(decoded(coding, item), mask)
    assert "colors" in notes[0]


def test_masks_in_colors_alone_are_read_by_them(tmp_path):
    stream = bytes_io.BytesIO()
    Image.fromarray(voc_palette()[half(2)]).save(stream, "PNG")
    found = items(tmp_path, ([1], stream.getvalue()), ([0], half(1)))
    coding, _ = find_mask_coding(found, ("cat", "dog"))
    np.testing.assert_array_equal(decoded(coding, found[0]), half(2))
    np.testing.assert_array_equal(decoded(coding, found[1]), half(1))


def test_colors_of_a_label_map_tell_the_numbers(tmp_path):
    colors = [(0, 0, 0), (10, 20, 30), (50, 60, 70)]
    palette = np.zeros((256, 3), np.uint8)
    palette[:3] = colors[0], colors[2], colors[1]
    found = items(tmp_path, ([1], with_palette(half(1), palette)), ([0], with_palette(half(2), palette)))
    coding, _ = find_mask_coding(found, ("cat", "dog"), colors)
    np.testing.assert_array_equal(decoded(coding, found[0]), half(2))
    np.testing.assert_array_equal(decoded(coding, found[1]), half(1))


def test_palettes_that_differ_in_unknown_colors_are_refused(tmp_path):
    palette = np.arange(768).reshape(256, 3) % 251
    swapped = palette.copy()
    swapped[[1, 2]] = palette[[2, 1]]
    found = items(tmp_path, ([0], with_palette(half(1), palette)), ([0], with_palette(half(2), swapped)))
    with pytest.raises(UserError, match="palettes of the masks differ"):
        find_mask_coding(found, ("cat", "dog"))


def test_a_color_of_no_class_is_a_fault_of_its_mask(tmp_path):
    coding = MaskCoding(colors=voc_palette()[:3])
    with pytest.raises(BadImage, match="#808000"):
        coding.decode(encode_mask(half(3), voc_palette()))


def test_swapped_numbers_of_two_classes_among_many_are_refused(tmp_path):
    names = tuple("abcdef")
    good = [([label], half(label + 1)) for label in (2, 3, 4, 5) for _ in range(5)]
    swap = [([0], half(2)), ([0], half(2)), ([1], half(1)), ([1], half(1))]
    with pytest.raises(UserError, match=r"4 of 24 images contradict"):
        find_mask_coding(items(tmp_path, *good, *swap), names)
    coding, _ = find_mask_coding(items(tmp_path, *good, swap[0]), names)  # one mistake is no rule
    assert coding == MaskCoding()


def test_numbers_that_count_from_another_one_are_refused(tmp_path):
    names, tags = ("cat", "dog"), ([0], [1], [0, 1], [])
    for shift in (-1, 1):  # 0 the first class and 255 the background; or 1 the background
        masks = [half(0), half(0), half(0), half(0)]
        for mask, labels in zip(masks, tags):
            for label in labels:
                mask[label] = label + 1
        found = items(
            tmp_path, *((labels, mask + np.uint8(shift % 256)) for labels, mask in zip(tags, masks))
        )
        with pytest.raises(UserError, match="off by one: 3 of 3 images show their tags if"):
            find_mask_coding(found, names)


def test_masks_of_foreground_alone_are_refused_for_several_classes(tmp_path):
    names, tags = ("cat", "dog"), ([0], [1], [0, 1], [])
    found = items(tmp_path, *((labels, half(1) if labels else half(0)) for labels in tags))
    with pytest.raises(UserError, match=r"one number alone, 1 \(cat\).*tagged dog"):
        find_mask_coding(found, names)
    shown = items(tmp_path, ([0], half(1)), ([0, 1], half(1)), ([], half(0)))
    assert find_mask_coding(shown, names)[0] == MaskCoding()
