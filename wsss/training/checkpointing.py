"""Gradient checkpointing: training in less memory, by computing activations twice."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from wsss.common import compat
from wsss.inference.graph import Step, rebuild, steps_of

_SIDE = 256  # pixels of the image at which the sizes of activations are compared
_BOUNDS = 32  # on the size of a segment that are compared


class CheckpointedNetwork:
    """A functional network for training, which keeps the activations between its segments only.

    The backward pass computes the activations within a segment again, one segment at a time. Outputs,
    gradients, moving statistics and random numbers are those of the network itself: each segment is a pure
    function of its weights and states, and states are written once. Source: Chen et al., "Training Deep Nets
    with Sublinear Memory Cost", 2016, section 4.

    Example:
        >>> import numpy as np
        >>> from wsss.backbones.tiny import small_backbone
        >>> from wsss.models import CamClassifier
        >>> model = CamClassifier.from_backbone(small_backbone(width=8), classes=3)
        >>> model.training_network = CheckpointedNetwork(model.network)
        >>> model.compile("adam", "binary_crossentropy")
        >>> images, labels = np.zeros((2, 32, 48, 3), "float32"), np.eye(2, 3)
        >>> history = model.fit(images, labels, verbose=0)

    Args:
        network: functional Keras model of one input.

    Raises:
        ValueError: a layer has an activity regularizer, or another loss of its own outputs, which a
            segment would lose.
    """

    def __init__(self, network: keras.Model):
        parts, self._image, self._outputs = _cut(network)
        self._segments = [_Segment(part) for part in parts]

    def __call__(self, images: Any) -> Any:
        """Outputs of the network in training, of the structure of `network.output`.

        Args:
            images: float32 (batch, height, width, channels).
        """
        values = {id(self._image): ops.convert_to_tensor(images)}
        for segment in self._segments:
            outputs = segment([values[id(x)] for x in segment.inputs])
            values.update(zip(map(id, segment.outputs), outputs, strict=True))
        return keras.tree.map_structure(lambda x: values[id(x)], self._outputs)

    @property
    def num_segments(self) -> int:
        """Number of segments, each of which is computed again at once."""
        return len(self._segments)


class _Part(NamedTuple):
    """Layer calls that are computed again together, and the tensors that enter and leave them."""

    steps: list[Step]
    inputs: list[Any]
    outputs: list[Any]


class _Segment:
    """Computes a part of the network as a pure function of inputs, weights and states."""

    def __init__(self, part):
        self.inputs, self.outputs = part.inputs, part.outputs
        self._network = rebuild(part.steps, part.inputs, part.outputs)

    def __call__(self, inputs):
        trained, states = self._network.trainable_variables, self._network.non_trainable_variables
        with compat.without_autocast():  # layers cast what they read themselves
            weights, values = ([ops.copy(x) for x in variables] for variables in (trained, states))
        written: list[Any] = []

        def compute(*tensors):
            entering, current = tensors[: len(inputs)], tensors[len(inputs) :]
            mapping = [*zip(trained, current, strict=True), *zip(states, values, strict=True)]
            with keras.StatelessScope(mapping, collect_losses=True) as scope:
                before = [scope.get_current_value(state) for state in states]
                outputs = self._network(entering if len(entering) > 1 else entering[0], training=True)
            if scope.losses:
                raise ValueError(
                    "Gradient checkpointing knows no losses that a layer adds while it is called, such as "
                    f"those of activity regularizers. Found {len(scope.losses)}."
                )
            after = [scope.get_current_value(state) for state in states]
            written[:] = [state for state, old, new in zip(states, before, after) if new is not old]
            return (*keras.tree.flatten(outputs), *(scope.get_current_value(state) for state in written))

        results = keras.remat(compute)(*inputs, *weights)
        outputs, updates = results[: len(self.outputs)], results[len(self.outputs) :]
        for state, value in zip(written, updates, strict=True):
            state.assign(value)
        return outputs


def _cut(network):
    """The parts of a network, its symbolic input, and its outputs.

    Cuts are placed where few bytes cross, for the least memory: what crosses the cuts is kept, and the
    largest part is computed again beside it. Sizes are compared for images of `_SIDE` pixels.
    """
    steps, copy = steps_of(network)
    outputs = keras.tree.flatten(copy.output)
    sizes = _sizes(network)
    made = {id(x): i for i, step in enumerate(steps) for x in keras.tree.flatten(step.output)}
    last_read = {id(x): i for i, step in enumerate(steps) for x in step.inputs}
    last_read.update({id(x): len(steps) for x in outputs})
    crossing = np.zeros(len(steps) + 1)
    for tensor, i in made.items():
        crossing[i + 1 : last_read.get(tensor, i) + 1] += sizes[i]
    cuts = _best_cuts(np.cumsum(sizes), crossing)
    parts = []
    for first, end in zip([0, *cuts], [*cuts, len(steps)]):
        part = steps[first:end]
        own = {id(x): x for step in part for x in keras.tree.flatten(step.output)}
        entering = {id(x): x for step in part for x in step.inputs if id(x) not in own}
        leaving = [x for tensor, x in own.items() if last_read.get(tensor, 0) >= end]
        parts.append(_Part(part, list(entering.values()), leaving))
    return parts, copy.inputs[0], copy.output


def _sizes(network):
    """Elements of the outputs of each layer call, for one image."""
    sides = (side or _SIDE for side in network.input.shape[1:3])
    image = keras.Input((*sides, network.input.shape[3]), dtype=network.input.dtype)
    steps, _ = steps_of(network, image)
    return [sum(math.prod(x.shape[1:]) for x in keras.tree.flatten(step.output)) for step in steps]


def _best_cuts(total, crossing):
    """Indices of the layer calls that begin a part, the first left out, for the least memory.

    For each of some bounds on the size of a part, dynamic programming finds the cuts that least crosses.

    Args:
        total: elements of the outputs of all layer calls up to each one.
        crossing: [i]: elements that are computed before layer call i and read from it on.
    """
    before = np.concatenate([[0], total])
    best: tuple[float, list[int]] = (math.inf, [])
    for bound in np.geomspace(np.diff(before).max(), total[-1], _BOUNDS):
        kept, begin = np.zeros(len(before)), np.zeros(len(before), int)
        for end in range(1, len(before)):
            first = np.searchsorted(before, before[end] - bound * (1 + 1e-9))
            candidates = kept[first:end] + crossing[first:end]
            begin[end] = first + np.argmin(candidates)
            kept[end] = candidates.min()
        cuts = [int(begin[-1])]
        while cuts[-1] > 0:
            cuts.append(int(begin[cuts[-1]]))
        best = min(best, (float(kept[-1] + bound), cuts[-2::-1]))
    return best[1]
