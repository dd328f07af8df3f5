"""Recorded inputs and outputs of the published implementations, as pytest parameters.

`@golden_cases("b_pcm")` runs a test once for every file `b_pcm.npz`, `b_pcm_0.npz`, `b_pcm_1.npz`, …
in the golden folder (`WSSS_GOLDEN`, by default `../shared/golden` beside the project, and where that is
missing the subset in `tests/golden`), hands it over as the argument `case`, marks the test `golden`, and
skips with the reason where there is no such file.
`golden_file("c_names_resnet38_seam.txt")` gives the path of one file by its name.

Calling either of them with a literal string is also the claim to the file:
`test_golden_coverage.py` reads the calls in the sources of the tests and fails for every file that
nobody claimed.
"""

import ast
import os
import re
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SHARED

SUBSET = Path(__file__).with_name("golden")
_WHOLE = SHARED / "golden"
GOLDEN = Path(os.environ.get("WSSS_GOLDEN", _WHOLE if _WHOLE.is_dir() else SUBSET))
DESCRIPTIONS = {"README.md"}  # files that describe the arrays and hold none


class GoldenCase:
    """The arrays of one golden file, read when first asked for: `case["cam"]`, `"cam" in case`."""

    def __init__(self, path):
        self.path = path
        self.name = path.stem

    def __repr__(self):
        return f"GoldenCase({self.name})"

    def __getitem__(self, key):
        return self._arrays[key]

    def __contains__(self, key):
        return key in self._arrays

    @property
    def keys(self):
        return tuple(self._arrays)

    def channels_last(self, key):
        """Array `key`, recorded as (batch, channels, height, width), in our layout."""
        return np.moveaxis(self[key], 1, -1)

    @cached_property
    def _arrays(self):
        with np.load(self.path) as file:
            return {key: file[key] for key in file.files}


def golden_files(prefix, folder=GOLDEN):
    """Files `PREFIX.npz` and `PREFIX_<number>….npz` of the golden folder, in order."""
    return [path for path in sorted(folder.glob("*.npz")) if _belongs(path, prefix)]


def golden_cases(*prefixes):
    """Decorator: runs the test for every golden file of these prefixes, as its argument `case`."""
    parameters = [
        pytest.param(GoldenCase(path), id=path.stem) for prefix in prefixes for path in golden_files(prefix)
    ]
    if not parameters:
        reason = f"no {' or '.join(prefixes)} files in {GOLDEN}; set WSSS_GOLDEN"
        parameters = [pytest.param(None, id="none", marks=pytest.mark.skip(reason=reason))]

    def decorate(test):
        return pytest.mark.golden(pytest.mark.parametrize("case", parameters)(test))

    return decorate


def golden_file(name):
    """Path of one golden file; the running test skips where it is missing."""
    path = GOLDEN / name
    if not path.is_file():
        pytest.skip(f"no {name} in {GOLDEN}; set WSSS_GOLDEN")
    return path


def assert_close(actual, expected, rtol=0.0, atol=0.0):
    """Asserts `|actual - expected| <= atol + rtol * max|expected|`, as the golden tolerances are meant.

    Of large arrays the subset in `tests/golden` keeps some numbers only, and NaN elsewhere; see `recorded`.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    if not expected.size:
        return
    kept = recorded(expected)
    actual, expected = actual[kept], expected[kept]
    error = np.abs(actual.astype("float64") - expected.astype("float64")).max()
    bound = atol + rtol * np.abs(expected).astype("float64").max()
    assert error <= bound, f"largest difference {error:.3g}, allowed {bound:.3g}"


def recorded(expected):
    """Where a recorded array holds a number; everywhere but in arrays that the subset thinned out."""
    kept = ~np.isnan(expected) if expected.dtype.kind == "f" else np.ones(expected.shape, bool)
    assert kept.any(), "nothing recorded to compare with"
    return kept


def claims(source):
    """Names in literal calls of `golden_cases` and `golden_file` in the Python text `source`.

    Raises:
        ValueError: a call with something else than literal strings, which no reader could find.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        name = getattr(getattr(node, "func", None), "id", None)
        if name not in ("golden_cases", "golden_file"):
            continue
        if not all(isinstance(arg, ast.Constant) and isinstance(arg.value, str) for arg in node.args):
            raise ValueError(f"Line {node.lineno}: `{name}` takes literal strings only.")
        found.update((name, arg.value) for arg in node.args)
    return found


def unclaimed_files(sources, files):
    """Those of the paths `files` that none of the Python texts `sources` claims."""
    claimed = set().union(*(claims(source) for source in sources))
    prefixes = {name for kind, name in claimed if kind == "golden_cases"}
    names = {name for kind, name in claimed if kind == "golden_file"}
    return [
        path
        for path in files
        if path.name not in names
        and not (path.suffix == ".npz" and any(_belongs(path, prefix) for prefix in prefixes))
    ]


def _belongs(path, prefix):
    return re.fullmatch(rf"{re.escape(prefix)}(_\d+\w*)?", path.stem) is not None
