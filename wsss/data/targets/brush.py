"""Label Studio's run lengths of a brush (the format of thi.ng's rle-pack), in NumPy."""

from collections.abc import Sequence

import numpy as np

_SIZES = np.array([3, 4, 8, 16])  # bits of a run's length, by its code of 2 bits
_HEADER_BITS, _WORD = 53, 8  # 32 of the length, 5 of the word size, 4 of each of the four sizes
_CHANNELS = 4  # red, green, blue and opacity, all alike
_LONGEST = 1 << 16


def encode_brush(inside: np.ndarray) -> list[int]:
    """Label Studio's `rle` of a region.

    Args:
        inside: bool (height, width), of the whole image.

    Returns:
        The bytes as a list of int, those that `label_studio_converter.brush.mask2rle` gives for
        `255 * inside`.
    """
    flat = inside.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    lengths = np.diff(ends, prepend=0) * _CHANNELS
    values = np.where(flat[ends - 1], 255, 0)
    pieces = -(-lengths // _LONGEST)  # a run that is too long is cut into several
    is_last = np.zeros(pieces.sum(), bool)
    is_last[np.cumsum(pieces) - 1] = True
    cut = np.where(is_last, np.repeat(lengths - (pieces - 1) * _LONGEST, pieces), _LONGEST)
    code = np.searchsorted(1 << _SIZES, cut)
    width = _SIZES[code]
    words = ((4 | code) << width | (cut - 1)) << _WORD | np.repeat(values, pieces)
    bits = np.concatenate([_header(flat.size * _CHANNELS), _bits_of(words, 3 + width + _WORD)])
    padding = np.zeros(8 - bits.size % 8, np.uint8)  # 8 where none is needed, as in Label Studio's converter
    return np.packbits(np.concatenate([bits, padding])).tolist()


def decode_brush(rle: Sequence[int], height: int, width: int) -> np.ndarray:
    """The region in Label Studio's `rle`: where its opacity is at least one half.

    Args:
        rle: the bytes, int in 0..255.
        height, width: of the image, in pixels.

    Returns:
        bool (height, width).

    Raises:
        ValueError: they are no such bytes, or of another size.
    """
    data = bytes(rle)
    total, word, sizes, place = _read_header(data)
    if total != height * width * _CHANNELS or word != _WORD:
        raise ValueError(f"a brush of {total} values of {word} bits for {width}x{height} pixels")
    out = np.empty(total, np.uint8)
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    done = 0
    while done < total:
        head = _read(data, place, 3)
        count = 1 + _read(data, place + 3, sizes[head & 3])
        place += 3 + sizes[head & 3]
        taken = word if head & 4 else word * count
        if place + taken > bits.size or done + count > total:
            raise ValueError("a brush that is cut off, or longer than its image")
        out[done : done + count] = np.packbits(bits[place : place + taken])
        place, done = place + taken, done + count
    return out.reshape(height, width, _CHANNELS)[..., -1] >= 128


def _header(total):
    fields = [(total, 32), (_WORD - 1, 5), *((size - 1, 4) for size in _SIZES.tolist())]
    values, widths = np.array(fields, np.int64).T
    return _bits_of(values, widths)


def _bits_of(values, widths):
    """The bits of numbers, high ones first, so many of each."""
    places = widths[:, None] - 1 - np.arange(widths.max())
    bits = (values[:, None] >> np.maximum(places, 0)) & 1
    return bits[places >= 0].astype(np.uint8)


def _read_header(data):
    """`(values in all, bits of a value, bits of a length by code, where the runs begin)`."""
    if len(data) * 8 < _HEADER_BITS:
        raise ValueError("a brush without a header")
    sizes = [1 + _read(data, 37 + 4 * code, 4) for code in range(4)]
    return _read(data, 0, 32), 1 + _read(data, 32, 5), sizes, _HEADER_BITS


def _read(data, place, width):
    """A number of `width` bits, at most 32, at a place in bits; beyond the end there are zeros."""
    start = place // 8
    window = int.from_bytes(data[start : start + 5].ljust(5, b"\0"), "big")
    return window >> (40 - place % 8 - width) & ((1 << width) - 1)
