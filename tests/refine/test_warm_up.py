"""The kernels that are compiled ahead are all that the package has."""

import ast
from pathlib import Path

import wsss.refine
from wsss.refine.warm_up import kernels


def test_every_function_that_numba_compiles_is_compiled_ahead():
    decorated = {
        (f"wsss.refine.{'.'.join(path.relative_to(folder).with_suffix('').parts)}", node.name)
        for folder in [Path(wsss.refine.__file__).parent]
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(decorator).startswith("njit") for decorator in node.decorator_list)
    }
    assert len(decorated) > 10
    assert {(kernel.py_func.__module__, kernel.py_func.__name__) for kernel in kernels()} == decorated
