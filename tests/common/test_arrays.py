"""`.npz` files give back what was saved, and a damaged one neither a traceback nor much memory."""

import tracemalloc
import zipfile
from io import BytesIO

import numpy as np
import pytest

from wsss.common.arrays import read_npz


def saved(save=np.savez, **arrays):
    stream = BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def archive(**contents):
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(f"{name}.npy", content)
    return stream.getvalue()


def npy(header, data=b""):
    """A `.npy` file with a header of one's own."""
    header = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_they_were(save):
    arrays = {
        "a": np.arange(6, dtype=np.float16).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "c": np.zeros((0, 4)),
        "d": np.array(1.5),
    }
    read = read_npz(saved(save, **arrays))
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array, strict=True)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 0)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': ()}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, -1)}",
        "{'descr': 'spam', 'fortran_order': False, 'shape': ()}",
        "{'descr': '<f4'}",
        "((((((",
        "__import__('os')",
    ],
)
def test_a_header_that_contradicts_its_data_is_refused(header):
    with pytest.raises(ValueError):  # noqa: PT011  any text of it
        read_npz(archive(a=npy(header)))


def test_a_file_that_unpacks_to_much_is_refused_before_it_is_unpacked():
    bomb = saved(np.savez_compressed, a=np.zeros(50_000_000, np.uint8))
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than 1000000 bytes"):
        read_npz(bomb, max_bytes=1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_file_that_is_cut_or_changed_anywhere_is_refused_or_read():
    data = saved(np.savez_compressed, a=np.arange(20), b=np.ones((2, 2)))
    for length in range(len(data)):
        with pytest.raises(ValueError):  # noqa: PT011  any text of it
            read_npz(data[:length])
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0xFF
        try:
            read_npz(bytes(changed))
        except ValueError:
            continue
