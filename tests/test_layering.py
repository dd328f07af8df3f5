"""Imports point down, every room and module is listed, and light modules stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "wsss"
COMMANDS = {"__main__", *(path.stem for path in PACKAGE.glob("*.py") if "def main(" in path.read_text())}
# What each room may import from the other rooms. Every module of the package lies in one of these rooms.
MAY_IMPORT = {
    "common": set(),
    "ops": {"common"},
    "layers": {"ops"},
    "backbones": {"common", "layers", "ops"},
    "models": {"backbones", "common", "layers", "ops", "optimizers"},  # which a saved model names
    "weights": {"backbones", "common", "layers", "models"},
    "optimizers": {"common"},
    "metrics": {"common"},
    "refine": {"common"},
    "data": {"common"},
    "visualization": {"common", "data"},
    "inference": {"common", "layers", "models", "ops"},
    "training": {
        *("backbones", "common", "data", "inference", "layers", "metrics", "models", "ops", "optimizers"),
        *("visualization", "weights"),
    },
    "pipeline": {"common", "data", "inference", "metrics", "ops", "refine", "visualization"},
    "project": {"common", "data", "pipeline", "training"},
    "utils": {"layers", "ops"},
}
# Modules that import no TensorFlow, at any depth and neither lazily; the numeric path is Keras and NumPy.
NO_TENSORFLOW = {"ops", "layers", "backbones", "models", "refine", "metrics", "weights"}
# Exceptions: what exists under the TensorFlow backend only (replicas; dilated gradients of the CPU).
ASKS_TENSORFLOW = {"layers/conv.py", "models/replicas.py"}
# Imported by Beam's workers and by users who only read masks: importing them must not import TensorFlow.
LIGHT_ROOMS = {"common", "data", "inference", "metrics", "pipeline", "refine", "visualization", "utils"}
NUMPY_ROOMS = {"metrics", "refine"}
NUMPY_ROOMS_MAY_IMPORT = {"numpy", "numba", "llvmlite", "scipy", "wsss"}


def modules(package=PACKAGE):
    return sorted(package.rglob("*.py"))


def room_of(path, package=PACKAGE):
    return path.relative_to(package).with_suffix("").parts[0]


def imports(path):
    """Dotted names that a file imports, wherever in the file the import stands, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute here"
            if node.module == "wsss":
                yield from (f"wsss.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def violations(package=PACKAGE):
    """What breaks the rules of the house, one line each."""
    found = []
    for path in modules(package):
        name, room = path.relative_to(package).as_posix(), room_of(path, package)
        if room in COMMANDS or room == "__init__":
            continue
        if room not in MAY_IMPORT:
            found.append(f"{name}: the room `{room}` is not listed")
            continue
        for dotted in imports(path):
            first, _, rest = dotted.partition(".")
            target = rest.split(".")[0]
            if first == "wsss" and target not in MAY_IMPORT[room] | {room}:
                found.append(f"{name} imports {dotted}")
            of_tensorflow = first in ("tensorflow", "tensorflow_datasets")
            if of_tensorflow and room in NO_TENSORFLOW and name not in ASKS_TENSORFLOW:
                found.append(f"{name} imports {dotted}")
            outside = first not in sys.stdlib_module_names | NUMPY_ROOMS_MAY_IMPORT
            if room in NUMPY_ROOMS and outside:
                found.append(f"{name} imports {dotted}")
    return found


def test_imports_point_down():
    assert violations() == []


def test_every_room_that_is_listed_exists():
    assert {room_of(path) for path in modules()} >= set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("pipeline/stages/read.py", "import wsss.train"),
        ("ops/cam.py", "from wsss import models"),
        ("ops/cam.py", "def f():\n    import tensorflow"),
        ("refine/walk.py", "import keras"),
        ("metrics.py", "import pandas"),
        ("new_room/module.py", "import numpy"),
        ("models/seam.py", "from wsss.training.loop import train"),
    ],
)
def test_a_broken_rule_is_found(tmp_path, module, line):
    path = tmp_path / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n")
    assert len(violations(tmp_path)) == 1


LIGHT = sorted(
    ".".join(("wsss", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in modules()
    if room_of(path) in LIGHT_ROOMS | COMMANDS | {"__init__"} and room_of(path) != "__main__"
)
IMPORTS_KERAS = {
    *("wsss.utils", "wsss.data.augment", "wsss.data.loader"),
    *("wsss.inference.compilation", "wsss.inference.fuse_batch_norm", "wsss.inference.graph"),
}


def test_light_modules_import_neither_tensorflow_nor_keras():
    """Each module in a process of its own would take minutes: one process names what broke it."""
    names = [name for name in LIGHT if name not in IMPORTS_KERAS and ".tiling" not in name]
    assert heavy_after(names) == ""


def heavy_after(names):
    """The first of the modules after whose import TensorFlow, or Keras, is there."""
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    if {'tensorflow', 'keras'} & set(sys.modules): sys.exit(print(name))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_heavy_module_is_found():
    assert heavy_after(["wsss.common.io", "wsss.models.seam"]) == "wsss.models.seam"
