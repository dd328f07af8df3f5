"""Private calls into other packages stand in `wsss.common.compat` alone, and do there what it says."""

import ast
from pathlib import Path

import keras
import numpy as np
from keras import layers

from wsss.common import compat
from wsss.common.cli import Parser

PACKAGE = Path(__file__).resolve().parents[2] / "wsss"
PUBLIC = {"_replace", "_asdict", "_fields"}  # of named tuples
INTERNAL = ("keras.src", "apache_beam.runners.portability")


def private_calls(source):
    """Private attributes of objects of other modules, and internal modules, that a Python text uses."""
    tree = ast.parse(source)
    own = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in ("self", "cls")
    }
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            if node.attr not in own | PUBLIC and not isinstance(node.value, ast.Call):  # super()._method
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module.startswith(INTERNAL):
            yield node.module


def test_no_other_module_calls_what_is_private():
    others = [path for path in PACKAGE.rglob("*.py") if path.name != "compat.py"]
    found = {path.name: list(private_calls(path.read_text(encoding="utf-8"))) for path in others}
    assert {name: calls for name, calls in found.items() if calls} == {}


def test_a_private_call_is_found():
    lines = (
        "import x\nx._y()\nfrom keras.src import z\nclass A:\n    def f(self, a):\n        self._b = a._b\n"
    )
    assert sorted(private_calls(lines)) == ["_y", "keras.src"]


def network():
    image = layers.Input((4, 4, 3))
    inner = keras.Sequential([layers.Conv2D(2, 1, name="inner")], name="nested")
    return keras.Model(image, layers.BatchNormalization(name="norm")(inner(image)))


def test_layers_of_nested_models_and_their_own_variables_are_listed():
    model = network()
    found = {layer.name: compat.own_variables(layer) for layer in compat.flat_layers(model)}
    assert [variable.name for variable in found["inner"]] == ["kernel", "bias"]
    names = ["gamma", "beta", "moving_mean", "moving_variance"]
    assert [variable.name for variable in found["norm"]] == names
    assert found["nested"] == []


def test_the_layer_behind_a_tensor_is_given():
    assert compat.producer(network().outputs[0]).name == "norm"


def test_a_model_that_was_built_symbolically_has_its_metrics_before_the_first_batch():
    model = network()
    model.compile("sgd", loss="mse", metrics=["mae"])
    compat.build_symbolically(
        model, [keras.KerasTensor((2, 4, 4, 3), "float32"), keras.KerasTensor((2, 4, 4, 2), "float32")]
    )
    assert "compile_metrics" in [metric.name for metric in model.metrics]
    model.fit(np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4, 2)), verbose=0)


def test_flags_of_a_parser_and_of_beam_are_listed():
    parser = Parser(add_help=False, conflict_handler="resolve")
    parser.add_argument("--mine", "-m")
    assert set(compat.flags_of(parser)) == {"--mine", "-m"}
