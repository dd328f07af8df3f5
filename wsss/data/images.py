"""Images and masks as bytes: what is accepted, and how it is decoded."""

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

MAX_PIXELS = 64_000_000  # area of an image, unless the user sets another limit
MAX_SIDE = 65_535  # pixels, JPEG's own limit; a PNG of 64,000,000 x 1 fits in 8 kB
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF")  # those that TFDS knows; MPO is a JPEG with extras
_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif"),
    *(".webp", ".tif", ".tiff", ".ppm", ".pgm", ".heic", ".avif", ".jp2"),  # refused, but not overlooked
)
_ORIENTATION_TAG = 0x0112
_NUMBERED, _COLORED = ("P", "L", "1"), ("P", "RGB", "RGBA")  # modes of masks: of numbers, of colors


class BadImage(ValueError):
    """An image or a mask that cannot be used.

    Attributes:
        reason: a word for the kind of fault, such as `corrupt`.
        detail: what was found.
        remedy: what to do about it.
    """

    def __init__(self, reason: str, detail: str, remedy: str):
        super().__init__(f"{detail} {remedy}")
        self.reason, self.detail, self.remedy = reason, detail, remedy

    def __reduce__(self):
        return BadImage, (self.reason, self.detail, self.remedy)


class ImageMetadata(NamedTuple):
    """Size in pixels of the upright image, and the EXIF orientation (1..8) of the stored one."""

    height: int
    width: int
    orientation: int


def is_image(path: str) -> bool:
    """Whether a file is an image by its name; one of a format that is not read is refused later, with why."""
    return path.lower().endswith(_SUFFIXES)


def inspect_image(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageMetadata:
    """Decodes an encoded image to see that it can be used.

    Args:
        data: bytes of an image file.
        max_pixels: the largest area that is accepted; no side may exceed `MAX_SIDE`.

    Returns:
        `ImageMetadata`. `decode_image` reads every image that passes.

    Raises:
        BadImage: zero bytes, corrupt, animated, CMYK, 16 bits, too large, or another format than those of
            `_FORMATS`.
    """
    with _open(data) as image:
        _check_header(image, data, max_pixels)
        pixels, orientation = _decode(image)
    height, width = pixels.shape[:2]
    if orientation >= 5:
        height, width = width, height
    return ImageMetadata(height, width, orientation)


def decode_image(data: bytes, orientation: int | None = None) -> np.ndarray:
    """Decodes an image to upright RGB: the one decoder of preparation, training and prediction.

    Args:
        data: bytes of an image file.
        orientation: EXIF orientation to undo, 1..8; None reads it from the image.

    Returns:
        uint8 (height, width, 3).

    Raises:
        BadImage: the bytes cannot be decoded, or a side is longer than `MAX_SIDE`.
    """
    with _open(data) as image:
        _check_sides(image)
        pixels, stored_orientation = _decode(image)
    return np.ascontiguousarray(upright(pixels, stored_orientation if orientation is None else orientation))


def _check_header(image, data, max_pixels):
    if image.format not in _FORMATS:
        raise BadImage("format", f"The format is {image.format}.", "Convert it to JPEG or PNG.")
    _check_sides(image)
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(
            "huge", f"It has {width}x{height} pixels, more than {max_pixels}.", "Shrink or tile it."
        )
    if image.format in ("GIF", "PNG") and (frames := _count_frames(image)) > 1:
        raise BadImage("animated", f"It has {frames} frames.", "Extract one frame.")
    if image.mode == "CMYK":
        raise BadImage("cmyk", "Its colors are CMYK.", "Convert it to RGB.")
    if image.mode.startswith(("I", "F")) or (image.format == "PNG" and data[24] == 16):
        raise BadImage("sixteen_bit", "It has 16 bits or more a channel.", "Convert it to 8 bits.")
    if image.format == "BMP" and image.mode != "RGB":
        raise BadImage("format", f"A BMP of mode {image.mode}.", "Convert it to JPEG or PNG.")
    if image.format == "PNG":
        _check_png(data)


def _check_sides(image):
    width, height = image.size
    if max(width, height) > MAX_SIDE:
        raise BadImage("huge", f"It has {width}x{height} pixels; a side exceeds {MAX_SIDE}.", "Cut it.")


def _count_frames(image):
    try:
        return getattr(image, "n_frames", 1)  # Pillow reads all of the file for it
    except Exception as error:  # as in `_load`
        raise BadImage("corrupt", f"It cannot be decoded: {_sanitized(error)}.", "Replace it.") from error


def _decode(image):
    """The stored pixels as uint8 RGB (height, width, 3), and the EXIF orientation."""
    _load(image)  # first: Pillow forgets what is wrong with the pixels once EXIF was read
    orientation = _orientation(image)
    try:
        return np.asarray(image.convert("RGB")), orientation
    except Exception as error:  # as in `_load`
        raise BadImage("corrupt", f"It cannot be decoded: {_sanitized(error)}.", "Replace it.") from error


def decode_mask(data: bytes) -> np.ndarray:
    """Decodes a mask of palette indices or gray values, uint8 (height, width).

    Raises:
        BadImage: the bytes cannot be decoded, or hold colors instead of one number a pixel.
    """
    with _open(data, "mask_corrupt") as image:
        if image.mode not in _NUMBERED and image.format != "JPEG":
            raise BadImage(
                "mask_format",
                f"The mask has mode {image.mode}.",
                "Save one 8-bit number a pixel (palette or gray PNG).",
            )
        return _load_mask(image, data)


def decode_color_mask(data: bytes, colors: Sequence[Sequence[int]]) -> np.ndarray:
    """Decodes a mask whose colors encode the numbers; one of gray values is read as `decode_mask` does.

    Args:
        data: bytes of a mask file.
        colors: (r, g, b) of each number from 0.

    Returns:
        uint8 (height, width).

    Raises:
        BadImage: the bytes cannot be decoded, or hold a color that is not among `colors`.
    """
    with _open(data, "mask_corrupt") as image:
        if image.mode not in _COLORED:
            return decode_mask(data)
        _load_mask(image, data)
        codes = _color_codes(image)
    found, inverse = np.unique(codes, return_inverse=True)
    number_of = {_color_code(color): number for number, color in reversed(list(enumerate(colors)))}
    strange = [code for code in found.tolist() if code not in number_of]
    if strange:
        raise BadImage(
            "mask_values",
            f"The mask has the color #{strange[0]:06x} of no class.",
            "Draw it in known colors.",
        )
    return np.array([number_of[code] for code in found.tolist()], np.uint8)[inverse].reshape(codes.shape)


def mask_content(data: bytes) -> tuple[frozenset | None, dict | None]:
    """What a mask holds.

    Returns:
        The values of its pixels, None where it has colors instead; and the color of each value, None where it
        has gray values. Colors without values are numbered from 0.

    Raises:
        BadImage: the bytes cannot be decoded.
    """
    with _open(data, "mask_corrupt") as image:
        if image.mode not in (*_NUMBERED, *_COLORED):
            raise BadImage("mask_format", f"The mask has mode {image.mode}.", "Save it as 8-bit PNG.")
        pixels = _load_mask(image, data)
        codes = _color_codes(image) if image.mode in _COLORED else None
        mode = image.mode
    if codes is not None and mode not in _NUMBERED:
        colors = dict(enumerate(_color(code) for code in np.unique(codes).tolist()))
        return None, colors
    values, places = np.unique(pixels, return_index=True)
    if codes is None:
        return frozenset(values.tolist()), None
    return frozenset(values.tolist()), {
        value: _color(code) for value, code in zip(values.tolist(), codes.ravel()[places].tolist())
    }


def _load_mask(image, data):
    if image.format == "JPEG":
        raise BadImage("mask_format", "The mask is a JPEG.", "Its numbers are not exact: save it as PNG.")
    _check_sides(image)
    if image.format == "PNG":
        _check_png(data, "mask_corrupt")
    _load(image, "mask_corrupt")
    return np.array(image, np.uint8)


def _color_codes(image):
    pixels = np.asarray(image.convert("RGB"), np.int32)
    return pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]


def _color_code(color):
    red, green, blue = map(int, color)
    return red << 16 | green << 8 | blue


def _color(code):
    return code >> 16, code >> 8 & 255, code & 255


def encode_mask(mask: np.ndarray, palette: np.ndarray | None = None) -> bytes:
    """Encodes a mask as PNG; equal masks give equal bytes.

    Args:
        mask: uint8 (height, width).
        palette: uint8 (256, 3), the color shown for each number, or None for a gray PNG.
    """
    mask = np.asarray(mask)
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f"`mask` must be uint8 (height, width). Received: {mask.dtype} {mask.shape}.")
    image = Image.fromarray(mask)
    if palette is not None:
        image = image.convert("P")
        image.putpalette(np.asarray(palette, np.uint8).tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def voc_palette() -> np.ndarray:
    """The colors of PASCAL VOC's masks, uint8 (256, 3): the bits of the index, spread over R, G and B."""
    index = np.arange(256, dtype=np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((index >> channel) & 1) << (7 - bit)
        index >>= 3
    return palette


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turns stored pixels, whose first axes are height and width, the way an EXIF orientation (1..8) says."""
    if orientation >= 5:
        array = np.swapaxes(array, 0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def stored_size(data: bytes) -> tuple[int, int]:
    """(height, width) in an image's header, without regard to its orientation."""
    with _open(data) as image:
        return image.size[::-1]


def upright_size(data: bytes) -> tuple[int, int]:
    """(height, width) of an image as it is shown, its EXIF orientation undone; only the header is read.

    Raises:
        BadImage: the bytes are no image.
    """
    with _open(data) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def image_suffix(data: bytes) -> str:
    """The suffix of a file with these bytes, such as `.jpg`; `.img` where the format is not known."""
    signatures = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp"}
    return next((suffix for start, suffix in signatures.items() if data.startswith(start)), ".img")


def _open(data, reason="corrupt"):
    if not data:
        raise BadImage("zero_byte" if reason == "corrupt" else reason, "The file is empty.", "Copy it again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `max_pixels` is our own limit
            return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise BadImage("huge", f"{error}", "Shrink or tile it.") from error
    except Exception as error:  # Pillow's readers raise what they happen to meet; no file may stop a job
        raise BadImage(reason, f"No image can be read from its {len(data)} bytes.", "Replace it.") from error


def _check_png(data, reason="corrupt"):
    """Checks that a PNG is whole: Pillow lets wrong checksums of pixels pass."""
    position = 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 12 + length
        name = data[position + 4 : position + 8]
        critical = name[:1].isupper()
        if critical and zlib.crc32(data[position + 4 : end - 4]).to_bytes(4, "big") != data[end - 4 : end]:
            raise BadImage(reason, f"Its chunk {name!r} fails the checksum.", "Replace it.")
        if name == b"IEND":
            return
        position = end
    raise BadImage(reason, "It is cut off before its end.", "Replace it.")


def _load(image, reason="corrupt"):
    try:
        image.load()
    except Exception as error:  # as above
        raise BadImage(reason, f"It cannot be decoded: {_sanitized(error)}.", "Replace it.") from error


def _orientation(image):
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1  # damaged EXIF in an image that is fine
    return orientation if orientation in range(1, 9) else 1


def _sanitized(error):
    """The error's text without object addresses, so that two runs write the same."""
    return str(error).split(" at 0x")[0].split("<_io")[0].strip(" .'") or type(error).__name__
