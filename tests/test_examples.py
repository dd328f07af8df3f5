"""The examples in docstrings run and give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "wsss"
MODULES = [
    ".".join(("wsss", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


def _trains(name):
    return name.startswith("wsss.models")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if _trains(name) else ()) for name in MODULES]
)
def test_examples_give_what_they_show(name):
    failed, tried = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert tried
    assert not failed
