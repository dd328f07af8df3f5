"""MkDocs hook: in the API pages, `::: wsss.PACKAGE` becomes one entry for each module of the package.

A module is shown if it defines a public function or class; one that only passes names on is not.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown, **_):
    """Called by MkDocs for each page before it is rendered."""
    return re.sub(r"^::: ([\w.]+)$", _entries, markdown, flags=re.MULTILINE)


def _entries(match):
    package = ROOT / match[1].replace(".", "/")
    if not package.is_dir():
        return match[0]
    shown = [path for path in sorted(package.rglob("*.py")) if _defines_public_names(path)]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in shown)
    return "\n\n".join(f"::: {name.removesuffix('.__init__')}" for name in names)


def _defines_public_names(path):
    kinds = (ast.FunctionDef, ast.ClassDef)
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(isinstance(node, kinds) and not node.name.startswith("_") for node in body)
