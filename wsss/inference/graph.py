"""A functional Keras model as the list of its layer calls, to be rewritten and built again."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras


class Step(NamedTuple):
    """One call of a layer; tensors are identified by `id`."""

    layer: Any
    args: tuple
    kwargs: dict
    output: Any

    @property
    def inputs(self) -> list:
        return [x for x in keras.tree.flatten((self.args, self.kwargs)) if isinstance(x, keras.KerasTensor)]


def steps_of(model: keras.Model, image: Any = None) -> tuple[list[Step], keras.Model]:
    """The layer calls of a functional model on new symbolic tensors, in order, and the model of these.

    Args:
        model: functional Keras model.
        image: `keras.Input` in place of the model's own input, such as one of a known size.
    """
    steps = []

    def record(layer, *args, **kwargs):
        output = layer(*args, **kwargs)
        steps.append(Step(layer, args, kwargs, output))
        return output

    copy = keras.models.clone_model(
        model, input_tensors=image, clone_function=lambda layer: layer, call_function=record
    )
    return steps, copy


def rebuild(steps: list[Step], inputs: Sequence[Any], outputs: Sequence[Any]) -> keras.Model:
    """`keras.Model` of the steps, from new inputs like the tensors `inputs` to what stands for `outputs`."""
    new = [keras.Input(x.shape[1:], dtype=x.dtype) for x in inputs]
    values = {id(x): y for x, y in zip(inputs, new)}
    for step in steps:
        layer, args, kwargs, output = replace_inputs(step, values)
        for old, value in zip(keras.tree.flatten(output), keras.tree.flatten(layer(*args, **kwargs))):
            values[id(old)] = value
    return keras.Model(new if len(new) > 1 else new[0], [values[id(x)] for x in outputs])


def readers_of(steps: list[Step], outputs: Sequence[Any]) -> dict[int, list[Step | None]]:
    """Id of a tensor -> the steps that read it, and None for an output of the model."""
    readers: dict[int, list[Step | None]] = {id(x): [None] for x in outputs}
    for step in steps:
        for x in step.inputs:
            readers.setdefault(id(x), []).append(step)
    return readers


def needed(steps: list[Step], outputs: Sequence[Any]) -> list[Step]:
    """The steps that `outputs` depend on, in order."""
    wanted, kept = {id(x) for x in outputs}, []
    for step in reversed(steps):
        if any(id(x) in wanted for x in keras.tree.flatten(step.output)):
            wanted.update(id(x) for x in step.inputs)
            kept.append(step)
    return kept[::-1]


def replace_inputs(step: Step, replacements: dict) -> Step:
    """The step with some of its input tensors replaced; `replacements` maps ids to new tensors."""
    args, kwargs = keras.tree.map_structure(lambda x: replacements.get(id(x), x), (step.args, step.kwargs))
    return step._replace(args=args, kwargs=kwargs)


def topological_order(steps: list[Step]) -> list[Step]:
    """The steps, each after those whose outputs it reads."""
    pending = {id(x) for step in steps for x in keras.tree.flatten(step.output)}
    ordered, left = [], list(steps)
    while left:
        waiting = []
        for step in left:
            if any(id(x) in pending for x in step.inputs):
                waiting.append(step)
            else:
                ordered.append(step)
                pending.difference_update(id(x) for x in keras.tree.flatten(step.output))
        left = waiting
    return ordered
