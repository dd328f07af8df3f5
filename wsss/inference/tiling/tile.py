"""A network with bounded activation memory, for images whose maps would not fit."""

import math

import keras

from wsss.inference.graph import Step, readers_of, rebuild, steps_of, topological_order
from wsss.inference.tiling.executor import Subgraph, TiledExecutor, receptive_fields_of
from wsss.layers.resize import ResizeLike

REFERENCE_SIDE = 512  # pixels of the square image on which activations are counted


def tile_network(network: keras.Model) -> keras.Model | None:
    """The network with tiled execution wherever wide maps lie between narrow ones.

    Args:
        network: of `optimize_for_inference`.

    Returns:
        `keras.Model` on the same weights with the same numbers up to rounding, for TensorFlow on CPUs; None
        where tiling would save nothing.
    """
    steps, copy = steps_of(network)
    steps = _read_sizes_of_narrow_maps(steps)
    tiled = False
    for part in _subgraphs(steps, copy.outputs):
        if not _is_wide_inside(part):
            continue
        inside = {id(step) for step in part.steps}
        layer = TiledExecutor(part, name=f"{part.steps[-1].layer.name}_tiled")
        steps = [step for step in steps if id(step) not in inside]
        steps.append(Step(layer, (part.inputs,), {}, part.outputs))
        tiled = True
    return rebuild(topological_order(steps), copy.inputs, copy.outputs) if tiled else None


def activation_bytes_per_pixel(network: keras.Model) -> float:
    """Most bytes of activation maps alive at once, for each pixel of an image, when the network runs whole.

    Every map that is still to be read counts; buffers inside of a layer do not.
    """
    steps, copy = steps_of(network)
    alive = {
        id(x): keras.KerasTensor((1, REFERENCE_SIDE, REFERENCE_SIDE, x.shape[-1]), x.dtype)
        for x in copy.inputs
    }
    readers = readers_of(steps, copy.outputs)
    last_reader = {tensor: reading[-1] for tensor, reading in readers.items()}
    peak = 0
    for step in steps:
        args, kwargs = keras.tree.map_structure(lambda x: alive.get(id(x), x), (step.args, step.kwargs))
        specs = step.layer.compute_output_spec(*args, **kwargs)
        new = zip(keras.tree.flatten(step.output), keras.tree.flatten(specs))
        alive.update((id(x), spec) for x, spec in new)
        peak = max(peak, sum(map(_bytes, alive.values())))
        for x in step.inputs:
            if last_reader[id(x)] is step and None not in readers[id(x)]:
                alive.pop(id(x), None)
    return peak / REFERENCE_SIDE**2


def _bytes(x):
    return math.prod(x.shape) * (2 if x.dtype in ("float16", "bfloat16") else 4)


def _subgraphs(steps, outputs):
    """The steps that have receptive fields, in subgraphs as large as can be with no other step between."""
    readers = readers_of(steps, outputs)
    level: dict[int, int] = {}
    groups: dict[int, list[Step]] = {}
    for step in steps:
        number = max((level.get(id(x), 0) for x in step.inputs), default=0)
        if receptive_fields_of(step):
            groups.setdefault(number, []).append(step)
        after = number if receptive_fields_of(step) else number + 1
        level.update((id(x), after) for x in keras.tree.flatten(step.output))
    for group in groups.values():
        inside, computed = {id(step) for step in group}, {id(step.output) for step in group}
        inputs = {id(x): x for step in group for x in step.inputs if id(x) not in computed}
        read = [
            step.output
            for step in group
            if any(id(reader) not in inside for reader in readers[id(step.output)])
        ]
        yield Subgraph(group, list(inputs.values()), read)


def _is_wide_inside(part):
    """Whether some map inside is twice as large as all inputs and outputs of the subgraph together."""
    cells = {id(x): 1 for x in part.inputs}  # of the first input, for each of the map
    for step in part.steps:
        fields = receptive_fields_of(step)
        assert fields is not None  # all steps of a subgraph have them
        rows, columns = fields
        cells[id(step.output)] = max(cells[id(x)] for x in step.inputs) * rows.stride * columns.stride
    elements = {
        id(x): x.shape[-1] / cells[id(x)] for x in [*part.inputs, *(step.output for step in part.steps)]
    }
    outside = sum(elements[id(x)] for x in [*part.inputs, *part.outputs])
    return max(elements.values()) > 2 * outside


def _read_sizes_of_narrow_maps(steps):
    """The steps, where those that read only the size of a wide map read it of a narrow one."""
    return [
        step._replace(args=([step.inputs[0], _narrowest(step.inputs[1], steps)],), kwargs={})
        if isinstance(step.layer, ResizeLike)
        else step
        for step in steps
    ]


def _narrowest(x, steps):
    """The map of the fewest channels among `x` and those of its size that are computed from it alone."""
    same = {id(x): x}
    for step in steps:
        fields = receptive_fields_of(step) or ()
        if (
            len(step.inputs) == 1
            and id(step.inputs[0]) in same
            and fields
            and all(field.keeps_size for field in fields)
        ):
            same[id(step.output)] = step.output
    return min(same.values(), key=lambda x: x.shape[-1])
