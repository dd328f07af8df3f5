"""Imports point one way, and light rooms stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "wsss"
BASE = {"errors", "files", "masks", "memory", "quiet"}
# What each room may import from its neighbours; itself is always allowed.
MAY_IMPORT = {
    "errors": set(),
    "masks": set(),
    "memory": set(),
    "quiet": set(),
    "flags": {"errors"},
    "files": {"errors"},
    "metrics": {"masks"},
    "interpolation": set(),
    "pictures": {"data", "masks"},
    "seeds": {"interpolation"},
    "ops": {"interpolation"},
    "refine": {"masks"},
    "models": {"errors", "ops"},
    "optimizers": {"errors"},
    "presets": {"errors"},
    "utils": {"ops", "models"},
    "data": BASE,
    "layout": BASE,
    "inference": BASE | {"models", "ops", "seeds"},
    "transforms": BASE
    | {"data", "flags", "inference", "layout", "metrics", "models", "ops", "pictures", "refine", "seeds"},
}


def room_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def wsss_imports(path):
    """Rooms of `wsss` that a file imports, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "wsss":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "wsss" and len(parts) > 1:
                    yield parts[1]


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_of_a_room_point_downwards(room):
    files = [path for path in PACKAGE.rglob("*.py") if room_of(path) == room]
    assert files, f"no such room: {room}"
    for path in files:
        wrong = set(wsss_imports(path)) - MAY_IMPORT[room] - {room}
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {sorted(wrong)}"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("wsss", "keras"),
        ("wsss.refine", "keras"),
        ("wsss.metrics", "keras"),
        ("wsss.files", "tensorflow"),
        ("wsss.transforms", "tensorflow"),
        ("wsss.ops", "tensorflow_datasets"),
    ],
)
def test_light_modules_do_not_import_heavy_ones(module, heavy):
    code = f"import sys, {module}; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
