"""`wsss.data.images`: what is accepted, and how it is decoded."""

import io
import pickle
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from wsss.data import images
from wsss.data.images import BadImage, decode_image, decode_mask, encode_mask, inspect_image


def encoded(image, format="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def picture(height=7, width=12, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def oriented(orientation, format="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), format, exif=exif)


def flipped(data, position):
    """`data` with one bit turned."""
    damaged = bytearray(data)
    damaged[position] ^= 1
    return bytes(damaged)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_orientation_is_honoured(orientation, format):
    data = oriented(orientation, format)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    metadata = inspect_image(data)
    assert metadata == (*expected.shape[:2], orientation)
    np.testing.assert_array_equal(decode_image(data), expected)
    np.testing.assert_array_equal(decode_image(data, metadata.orientation), expected)


def test_an_orientation_that_does_not_exist_is_upright():
    assert inspect_image(oriented(11)).orientation == 1


def _sixteen_bit_rgb_png():
    raw = b"".join(b"\0" + bytes(4 * 6) for _ in range(3))

    def chunk(name, body):
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    header = (4).to_bytes(4, "big") + (3).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def _animated(format):
    frames = [picture(seed=seed) for seed in range(3)]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero_byte"),
        (b"not an image at all", "corrupt"),
        (encoded(picture(40, 40))[:-300], "corrupt"),
        (encoded(picture(40, 40), "PNG")[:-60], "corrupt"),
        (encoded(picture(40, 40), "PNG")[:-1], "corrupt"),
        (flipped(encoded(picture(40, 40), "PNG"), -40), "corrupt"),
        (encoded(picture().convert("CMYK")), "cmyk"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG"), "sixteen_bit"),
        (_sixteen_bit_rgb_png(), "sixteen_bit"),
        (_animated("GIF"), "animated"),
        (_animated("PNG"), "animated"),
        (encoded(picture(), "TIFF"), "format"),
        (encoded(picture().convert("L"), "BMP"), "format"),
    ],
)
def test_what_cannot_be_used_is_distinguished(data, reason):
    with pytest.raises(BadImage) as caught:
        inspect_image(data)
    assert caught.value.reason == reason
    assert caught.value.remedy


def test_the_area_is_checked_before_the_image_is_decoded():
    data = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(BadImage) as caught:
        inspect_image(data)
    assert caught.value.reason == "huge"
    assert inspect_image(encoded(picture(10, 10)), max_pixels=100) == (10, 10, 1)
    with pytest.raises(BadImage):
        inspect_image(encoded(picture(10, 10)), max_pixels=99)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_every_other_kind_of_png_decodes_to_rgb(mode):
    data = encoded(picture().convert(mode), "PNG")
    assert inspect_image(data) == (7, 12, 1)
    assert decode_image(data).shape == (7, 12, 3)


def test_a_mask_survives_its_encoding_grey_or_with_a_palette():
    mask = np.array([[0, 1, 20], [255, 3, 7]], np.uint8)
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)
    np.testing.assert_array_equal(decode_mask(encode_mask(mask, images.voc_palette())), mask)
    assert encode_mask(mask) == encode_mask(mask.copy())
    with pytest.raises(ValueError, match="uint8"):
        encode_mask(mask.astype(np.int64))


def test_the_palette_is_vocs():
    palette = images.voc_palette()
    expected = {0: (0, 0, 0), 1: (128, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {index: tuple(map(int, palette[index])) for index in expected} == expected


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "mask_corrupt"),
        (b"nothing", "mask_corrupt"),
        (encoded(picture(), "PNG"), "mask_format"),
        (encoded(picture().convert("L"), "JPEG"), "mask_format"),
        (flipped(encoded(picture(40, 40).convert("L"), "PNG"), -40), "mask_corrupt"),
    ],
)
def test_a_mask_must_hold_one_exact_number_a_pixel(data, reason):
    with pytest.raises(BadImage) as caught:
        decode_mask(data)
    assert caught.value.reason == reason


def test_a_bad_image_travels_between_processes():
    error = pickle.loads(pickle.dumps(BadImage("corrupt", "It is.", "Replace it.")))
    assert (error.reason, error.detail, error.remedy, str(error)) == (
        "corrupt",
        "It is.",
        "Replace it.",
        "It is. Replace it.",
    )


def test_an_animation_cut_in_the_middle_is_corrupt():
    frames = [picture(60, 60, seed=seed) for seed in range(3)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for end in range(20, len(data) - 1, 97):
        with pytest.raises(BadImage) as caught:
            inspect_image(data[:end])
        assert caught.value.reason in ("corrupt", "animated")


def test_every_prefix_of_an_image_is_either_decoded_or_refused_by_all():
    """Decoding with and without inspection agree, wherever a file was cut or a bit was turned."""
    for format in ("PNG", "BMP", "GIF", "JPEG"):
        data = encoded(picture(20, 20), format)
        damaged = [data[:end] for end in range(0, len(data), 13)]
        damaged += [flipped(data, position) for position in range(0, len(data), 7)]
        for candidate in damaged:
            try:
                metadata = inspect_image(candidate)
            except BadImage:
                continue
            assert decode_image(candidate, metadata.orientation).shape == (
                metadata.height,
                metadata.width,
                3,
            )


def test_a_side_is_limited_as_well_as_the_area():
    for size in ((1, 70_000), (70_000, 1)):
        data = encoded(Image.new("1", size), "PNG")
        for decode in (inspect_image, decode_image):
            with pytest.raises(BadImage, match="a side exceeds 65535"):
                decode(data)
