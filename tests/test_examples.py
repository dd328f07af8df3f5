"""The examples in docstrings run and give what they show; each public name has one."""

import ast
import doctest
import functools
import importlib
import inspect
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wsss
from tests.test_programs_as_functions import TINY

PACKAGE = Path(__file__).resolve().parents[1] / "wsss"
MODULES = [
    ".".join(("wsss", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


def _takes_long(name):
    """Whether a module's examples train, or build a large network."""
    return name.startswith(("wsss.models", "wsss.backbones.applications", "wsss.training.checkpointing"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if _takes_long(name) else ()) for name in MODULES]
)
def test_examples_give_what_they_show(name):
    failed, tried = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert tried
    assert not failed


# In the order in which they are used: each reads what those before it wrote.
PROGRAMS = (
    "prepare_collection",
    "train_model",
    "label_collection",
    "relabel_collection",
    "predict_masks",
    "export_masks",
)


def example(function):
    """The code of the indented block under `Example:` in a docstring."""
    _, text = inspect.getdoc(function).split("\nExample:\n")
    lines = text.splitlines()
    end = next((i for i, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
    return textwrap.dedent("\n".join(lines[:end]))


@pytest.mark.parametrize("name", sorted(set(wsss.__all__) - {"__version__"}))
def test_a_public_name_has_an_example(name):
    code = example(getattr(wsss, name))
    if ">>> " not in code:  # those that need files run below
        # The last two in tests/test_convert.py and tests/test_run.py.
        assert name in (*PROGRAMS, "convert_weights", "run_project")
        ast.parse(code)


def run_example(name):
    """Runs the example of a public function that stands in its docstring."""
    exec(compile(example(getattr(wsss, name)), name, "exec"), {"wsss": wsss})


def make_photographs(folder, count=12):
    """JPEG files of two classes, red or blue in the middle, and the table of their tags."""
    (folder / "photos").mkdir()
    rows = ["id,labels"]
    noise = np.random.default_rng(0)
    for number in range(count):
        picture = noise.integers(0, 160, (40, 48, 3), np.uint8)
        picture[10:30, 10:30, 2 * (number % 2)] = 255
        Image.fromarray(picture).save(folder / "photos" / f"{number}.jpg")
        rows.append(f"{number},{('red', 'blue')[number % 2]}")
    (folder / "tags.csv").write_text("\n".join(rows))


@pytest.mark.slow
def test_the_examples_of_the_programs_run_one_after_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_photographs(tmp_path)
    train = wsss.train_model

    @functools.wraps(train)
    def train_shortly(data, output, **options):
        return train(data, output, **{**options, **TINY})

    monkeypatch.setattr(wsss, "train_model", train_shortly, raising=False)
    for name in PROGRAMS:
        run_example(name)
    assert capsys.readouterr().out.splitlines()[0] == "12 {}"
    assert (tmp_path / "coco").is_dir()
    assert len(list((tmp_path / "masks" / "masks").glob("*.png"))) == 12
