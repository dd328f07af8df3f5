"""A functional Keras model as the list of its layers' calls, to be rewritten and built again."""

from typing import Any, NamedTuple

import keras


class Step(NamedTuple):
    """One call of a layer; tensors are known by their ids."""

    layer: Any
    args: tuple
    kwargs: dict
    output: Any

    @property
    def inputs(self):
        return [x for x in keras.tree.flatten((self.args, self.kwargs)) if isinstance(x, keras.KerasTensor)]


def steps_of(model):
    """The calls of a functional model's layers on new tensors, in order, and the model of these tensors."""
    steps = []

    def record(layer, *args, **kwargs):
        output = layer(*args, **kwargs)
        steps.append(Step(layer, args, kwargs, output))
        return output

    copy = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=record)
    return steps, copy


def run(steps, values):
    """Calls the layers; `values` holds the tensors by the ids of those that they stand for."""
    for step in steps:
        layer, args, kwargs, output = replace_inputs(step, values)
        for old, new in zip(keras.tree.flatten(output), keras.tree.flatten(layer(*args, **kwargs))):
            values[id(old)] = new


def submodel(steps, inputs, outputs):
    """`keras.Model` of some steps, from the tensors `inputs` to the tensors `outputs`."""
    new = [keras.Input(x.shape[1:], dtype=x.dtype) for x in inputs]
    values = {id(x): y for x, y in zip(inputs, new)}
    run(steps, values)
    return keras.Model(new, [values[id(x)] for x in outputs])


def readers_of(steps, outputs):
    """Id of a tensor -> the steps that read it, and None for an output of the model."""
    readers = {id(x): [None] for x in outputs}
    for step in steps:
        for x in step.inputs:
            readers.setdefault(id(x), []).append(step)
    return readers


def needed(steps, outputs):
    """The steps that `outputs` depend on, in order."""
    wanted, kept = {id(x) for x in outputs}, []
    for step in reversed(steps):
        if any(id(x) in wanted for x in keras.tree.flatten(step.output)):
            wanted.update(id(x) for x in step.inputs)
            kept.append(step)
    return kept[::-1]


def replace_inputs(step, replacements):
    """The step with some of the tensors that it reads replaced, by their ids."""
    args, kwargs = keras.tree.map_structure(lambda x: replacements.get(id(x), x), (step.args, step.kwargs))
    return step._replace(args=args, kwargs=kwargs)


def in_order(steps):
    """The steps, each after those whose outputs it reads."""
    made = {id(x) for step in steps for x in keras.tree.flatten(step.output)}
    ordered, left = [], list(steps)
    while left:
        waiting = []
        for step in left:
            if any(id(x) in made for x in step.inputs):
                waiting.append(step)
            else:
                ordered.append(step)
                made.difference_update(id(x) for x in keras.tree.flatten(step.output))
        left = waiting
    return ordered
