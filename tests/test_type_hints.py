"""Public functions, classes and methods say the types of their parameters and of what they return."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "wsss"
# Numba compiles these for the types that it finds.
COMPILED = {"njit", "register_jitable", "intrinsic", "overload"}
# Overridden methods of Keras, whose types are Keras's: `build`, `call`, … of layers and models.
OF_KERAS = {
    *("build", "call", "compute_loss", "compute_metrics", "compute_output_shape", "compute_output_spec"),
    *("compile", "compile_from_config", "from_config", "get_config", "metrics"),
}


def missing_hints(source):
    """What a module's public functions and methods leave without a type, one line each."""
    return [
        f"line {function.lineno}: {name}: {', '.join(missing)}"
        for name, function, is_method in _functions(ast.parse(source).body)
        if (missing := _missing(function, is_method))
    ]


def _functions(body, owner=""):
    """`(dotted name, node, whether it is a method)` of public functions, also those inside of classes."""
    seen = []
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _functions(node.body, f"{owner}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            public = not node.name.startswith("_") or node.name == "__init__"
            overloaded = any(x.name == node.name for x in seen if _decorators(x) == {"overload"})
            seen.append(node)
            of_others = (owner and node.name in OF_KERAS) or _decorators(node) & COMPILED
            if public and not of_others and not overloaded:  # by variants before it, which have the types
                yield owner + node.name, node, bool(owner)


def _decorators(function):
    """Names of a function's decorators, without their arguments."""
    called = (x.func if isinstance(x, ast.Call) else x for x in function.decorator_list)
    return {x.id for x in called if isinstance(x, ast.Name)}


def _missing(function, is_method):
    """Names of the parameters without a type; of `*args` and `**kwargs` none is asked."""
    parameters = [*function.args.posonlyargs, *function.args.args]
    if is_method and "staticmethod" not in _decorators(function):
        parameters = parameters[1:]  # self or cls
    missing = [x.arg for x in [*parameters, *function.args.kwonlyargs] if x.annotation is None]
    if function.returns is None and function.name != "__init__":
        missing.append("return")
    return missing


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_public_functions_are_annotated(path):
    assert missing_hints(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("def f(x): pass", "line 1: f: x, return"),
        ("def f(x: int): pass", "line 1: f: return"),
        ("def f(x: int, *, y=1) -> int: pass", "line 1: f: y"),
        ("class A:\n def __init__(self, x): pass", "line 2: A.__init__: x"),
        ("class A:\n @property\n def size(self): pass", "line 3: A.size: return"),
        ("class A:\n @staticmethod\n def f(x) -> int: pass", "line 3: A.f: x"),
        ("class A:\n class B:\n  def f(self, x) -> int: pass", "line 3: A.B.f: x"),
        ("def call(x) -> int: pass", "line 1: call: x"),  # Keras's names count as Keras's in classes alone
    ],
)
def test_a_missing_hint_is_found(source, missing):
    assert missing_hints(source) == [missing]


@pytest.mark.parametrize(
    "source",
    [
        "def f(x: int, *args, **kwargs) -> int: pass",
        "def _f(x): pass",
        "class _A:\n def f(self, x): pass",
        "class A:\n def __init__(self, x: int): pass\n def _f(self, x): pass\n def __len__(self): pass",
        "class A:\n @classmethod\n def f(cls, x: int) -> int: pass",
        "class A(Layer):\n def call(self, x): pass\n def get_config(self): pass",
        "def f(x: int) -> int:\n def g(y): pass",
        "@njit(nogil=True)\ndef f(x): pass",
        "@overload\ndef f(x: int) -> int: ...\n@overload\ndef f(x: str) -> str: ...\ndef f(x): pass",
    ],
)
def test_what_needs_no_hint_is_left_alone(source):
    assert missing_hints(source) == []
