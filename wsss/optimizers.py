"""Keras optimizers with parameter groups, and the polynomial learning rate of the published protocols.

A `ParameterGroup` names variables by a regular expression on their path and scales the learning rate and the
weight decay of each. The groups are part of the optimizer's configuration, so that `compile`, `.keras` files,
mixed precision, `tf.distribute` and `jit_compile` see an ordinary Keras optimizer.
"""

import dataclasses
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """Variables whose path matches a pattern, and how they are trained.

    Attributes:
        pattern: regular expression, searched (`re.search`) in `variable.path`, e.g. `"(^|/)head/kernel$"`.
        learning_rate_multiplier: >= 0; scales the optimizer's learning rate.
        weight_decay_multiplier: >= 0; scales the optimizer's weight decay.
    """

    pattern: str
    learning_rate_multiplier: float = 1.0
    weight_decay_multiplier: float = 1.0

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"`pattern` must be a regular expression. Received: {self.pattern!r} ({error})."
            ) from None
        for name in ("learning_rate_multiplier", "weight_decay_multiplier"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative. Received: {getattr(self, name)}.")


_EVERYTHING_ELSE = ParameterGroup("")


def layer_groups(
    new_layers: Iterable[str] | Mapping[str, float],
    *,
    new_layer_multiplier: float = 10.0,
    bias_multiplier: float = 2.0,
) -> tuple[ParameterGroup, ...]:
    """The published groups: new layers learn faster, biases twice as fast and without weight decay.

    With the defaults: pretrained kernels x1, pretrained biases x2, new kernels x10, new biases x20; weight
    decay on kernels only. Scales of normalizations (`gamma`), which the publications freeze, are trained at
    x1 or x10 without decay.

    Source: SEAM's and AffinityNet's released training code, `get_parameter_groups`.

    Args:
        new_layers: names of the layers that start from random weights; with a mapping, a further factor on
            the learning rate of each.
        new_layer_multiplier: learning rate of new layers relative to the others.
        bias_multiplier: learning rate of biases (`bias`, `beta`) relative to kernels.

    Returns:
        Groups for `GroupedSGD` or `GroupedAdamW`; the first match decides.
    """
    factors = new_layers if isinstance(new_layers, Mapping) else dict.fromkeys(new_layers, 1.0)
    groups = []
    for factor in dict.fromkeys(factors.values()):
        names = "|".join(re.escape(name) for name, own in factors.items() if own == factor)
        new, multiplier = rf"(^|/)({names})/", new_layer_multiplier * factor
        groups += [
            ParameterGroup(new + r"(.*/)?[^/]*kernel$", multiplier, 1.0),
            ParameterGroup(new + r"(.*/)?(bias|beta)$", multiplier * bias_multiplier, 0.0),
            ParameterGroup(new, multiplier, 0.0),
        ]
    return (
        *groups,
        ParameterGroup(r"kernel$", 1.0, 1.0),
        ParameterGroup(r"(^|/)(bias|beta)$", bias_multiplier, 0.0),
        ParameterGroup("", 1.0, 0.0),
    )


def match_groups(groups: Sequence[ParameterGroup], paths: Iterable[str]) -> tuple[ParameterGroup, ...]:
    """The group of each variable path: the first that matches, or multipliers of one where none does."""
    return tuple(
        next((group for group in groups if re.search(group.pattern, path)), _EVERYTHING_ELSE)
        for path in paths
    )


def _as_groups(groups) -> tuple[ParameterGroup, ...]:
    return tuple(
        group if isinstance(group, ParameterGroup) else ParameterGroup(**group) for group in groups or ()
    )


if TYPE_CHECKING:
    from keras.optimizers import Optimizer as _Optimizer  # which `_Grouped` is mixed into
else:
    _Optimizer = object


class _Grouped(_Optimizer):
    """Shared by both optimizers: the group of each variable, and clipping by the norm of the global batch."""

    def _set_groups(self, groups):
        self.groups = _as_groups(groups)
        self._learning_rate_multipliers: tuple[float, ...] = ()
        self._weight_decays: tuple[float, ...] = ()

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        matched = match_groups(self.groups, (variable.path for variable in variables))
        self._learning_rate_multipliers = tuple(group.learning_rate_multiplier for group in matched)
        self._weight_decays = tuple(
            group.weight_decay_multiplier * (self.weight_decay or 0.0) for group in matched
        )
        for group in self.groups:
            logger.info("%d variables in group %s", sum(other is group for other in matched), group)

    def _apply_weight_decay(self, variables):
        """Keras's own decay, the same for every variable, is replaced by the groups' in `update_step`."""

    def _clip_gradients(self, grads):
        """Clips by the norm of the whole batch's gradient: Keras takes that of each replica's part."""
        context = _replica_context() if self.global_clipnorm else None
        if context is None:
            return super()._clip_gradients(grads)
        import tensorflow as tf

        summed = context.all_reduce(tf.distribute.ReduceOp.SUM, [grad for grad in grads if grad is not None])
        scale = ops.minimum(self.global_clipnorm / (tf.linalg.global_norm(summed) + 1e-12), 1.0)
        return [grad if grad is None else grad * ops.cast(scale, grad.dtype) for grad in grads]

    def _step_sizes(self, variable, learning_rate):
        """Learning rate (tensor) and weight decay (Python number) of one variable."""
        index = self._get_variable_index(variable)
        learning_rate = ops.cast(learning_rate, variable.dtype) * self._learning_rate_multipliers[index]
        decay = self._weight_decays[index] if self._use_weight_decay(variable) else 0.0
        return learning_rate, decay

    def get_config(self):
        return {**super().get_config(), "groups": [dataclasses.asdict(group) for group in self.groups]}


def _replica_context():
    """TensorFlow's replica context where there are several replicas, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context() if tf.distribute.has_strategy() else None
    return context if context is not None and context.num_replicas_in_sync > 1 else None


@keras.saving.register_keras_serializable(package="wsss")
class GroupedSGD(_Grouped, keras.optimizers.SGD):
    """Stochastic gradient descent with momentum, L2 weight decay and parameter groups, as in PyTorch.

    For each variable with learning rate `lr` and weight decay `wd` of its group:

        g = gradient + wd * p
        velocity = momentum * velocity + g
        p = p - lr * velocity            (nesterov: p - lr * (g + momentum * velocity))

    It differs from `keras.optimizers.SGD` in two ways that matter for the published results: the decay
    enters the momentum (Keras decouples it), and the velocity carries no learning rate, so that a falling
    learning rate also scales what was accumulated before.

    Args:
        learning_rate: float, schedule or callable.
        momentum: in [0, 1].
        nesterov: look ahead along the velocity.
        weight_decay: factor of the L2 penalty's gradient, >= 0, or None.
        groups: `ParameterGroup`s (or their dictionaries); the first match decides, no match means (1, 1).
        **kwargs: the base optimizer's, such as `global_clipnorm`, `gradient_accumulation_steps`, `use_ema`.

    Example:
        >>> from wsss.optimizers import GroupedSGD, PolynomialSchedule, layer_groups
        >>> schedule = PolynomialSchedule(0.01, total_steps=10_000)
        >>> groups = layer_groups(["fc8"])  # kernels of `fc8` learn 10 times as fast, its biases 20 times
        >>> optimizer = GroupedSGD(schedule, momentum=0.9, weight_decay=5e-4, groups=groups)
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        groups: Sequence[ParameterGroup | Mapping[str, Any]] = (),
        name: str = "GroupedSGD",
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate=learning_rate,
            momentum=float(momentum),
            nesterov=nesterov,
            weight_decay=weight_decay,
            name=name,
            **kwargs,
        )
        self._set_groups(groups)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable; `variable` belongs to the backend or to Keras."""
        learning_rate, decay = self._step_sizes(variable, learning_rate)
        step = ops.cast(gradient, variable.dtype)
        if decay:
            step = step + decay * variable
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            new_velocity = self.momentum * velocity + step
            self.assign(velocity, new_velocity)
            step = step + self.momentum * new_velocity if self.nesterov else new_velocity
        self.assign_sub(variable, learning_rate * step)


@keras.saving.register_keras_serializable(package="wsss")
class GroupedAdamW(_Grouped, keras.optimizers.AdamW):
    """AdamW with parameter groups; the decoupled decay `p - lr * wd * p` takes `lr` and `wd` of the group.

    Args:
        learning_rate: float, schedule or callable.
        weight_decay: >= 0.
        groups: `ParameterGroup`s (or their dictionaries); the first match decides, no match means (1, 1).
        **kwargs: `keras.optimizers.AdamW`'s.

    Example:
        >>> heads = ParameterGroup("^cam/", learning_rate_multiplier=10.0)
        >>> optimizer = GroupedAdamW(PolynomialSchedule(1e-4, total_steps=1000), groups=[heads])
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.004,
        groups: Sequence[ParameterGroup | Mapping[str, Any]] = (),
        name: str = "GroupedAdamW",
        **kwargs: Any,
    ):
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        self._set_groups(groups)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable; `variable` belongs to the backend or to Keras."""
        learning_rate, decay = self._step_sizes(variable, learning_rate)
        if decay:
            self.assign_sub(variable, (learning_rate * decay) * variable)
        super().update_step(gradient, variable, learning_rate)


@keras.saving.register_keras_serializable(package="wsss")
class PolynomialSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """`initial * (1 - step / total_steps) ** power`, frozen at its last positive value.

    `keras.optimizers.schedules.PolynomialDecay` reaches zero at the end; the published code stops updating
    the rate instead, so that further steps train with the rate of step `total_steps - 1`.

    Args:
        initial_learning_rate: > 0.
        total_steps: >= 1, the steps over which the rate falls.
        power: >= 0.

    Example:
        >>> schedule = PolynomialSchedule(0.1, total_steps=100, power=0.9)
        >>> print(*(f"{float(schedule(step)):.4f}" for step in (0, 50, 99, 200)))
        0.1000 0.0536 0.0016 0.0016
    """

    def __init__(self, initial_learning_rate: float, total_steps: int, power: float = 0.9):
        if total_steps < 1:
            raise ValueError(f"`total_steps` must be at least 1. Received: {total_steps}.")
        self.initial_learning_rate = initial_learning_rate
        self.total_steps = total_steps
        self.power = power

    def __call__(self, step):
        dtype = keras.config.floatx()
        step = ops.cast(ops.minimum(step, self.total_steps - 1), dtype)
        remaining = 1.0 - step / self.total_steps
        return self.initial_learning_rate * remaining**self.power

    def get_config(self):
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "total_steps": self.total_steps,
            "power": self.power,
        }
