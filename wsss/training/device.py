"""What training does differently on each kind of device, chosen here and nowhere else, and recorded."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

_BFLOAT16_CAPABILITY = (8, 0)  # of NVIDIA's cards, from Ampere on
_STEPS_PER_EXECUTION = 16  # steps between two visits of the host on an accelerator


@dataclasses.dataclass(frozen=True)
class DeviceSettings:
    """How a training step runs on a device. It stands in `config.json`, so that a resumed run goes on alike.

    Attributes:
        device: "cpu", "gpu" or "tpu".
        name: what the device calls itself, such as "NVIDIA H100 80GB HBM3"; empty where unknown.
        mixed_precision: number format of the activations, "none" (float32), "float16" or "bfloat16".
        jit_compile: whether XLA compiles the training step.
        steps_per_execution: most steps that run without a visit of the host in between.
    """

    device: str
    name: str
    mixed_precision: str
    jit_compile: bool
    steps_per_execution: int

    @property
    def dtype_policy(self) -> str:
        """Keras's name of the number format."""
        return "float32" if self.mixed_precision == "none" else f"mixed_{self.mixed_precision}"

    def steps_at_once(self, steps: int) -> int:
        """The largest divisor of the steps of an epoch that `steps_per_execution` allows.

        Keras runs whole executions only: a number that does not divide an epoch would take steps of the next.
        """
        return max(n for n in range(1, min(self.steps_per_execution, steps) + 1) if steps % n == 0)


def choose_device_settings(options: Any, recorded: Mapping[str, Any] | None = None) -> DeviceSettings:
    """The settings for the device that TensorFlow computes on, without starting the device.

    An option that is given wins. What is left to the device follows a run that is resumed, and else is, on an
    accelerator: bfloat16 where the device computes in it, XLA for one replica, and several steps an
    execution; on a CPU, in deterministic runs and in those of published presets: none of these.

    Args:
        options: `TrainingOptions`.
        recorded: the settings in the `config.json` of the run that is resumed.
    """
    device, name, has_bfloat16 = _find_device(options.strategy)
    accelerated = device != "cpu" and not options.deterministic
    chosen: dict[str, Any] = {
        "mixed_precision": "bfloat16" if accelerated and has_bfloat16 else "none",
        "jit_compile": accelerated and _replicas(options.strategy) == 1,
        "steps_per_execution": 1,
    }
    if accelerated and options.strategy != "multi_worker" and not options.checkpoint_steps:
        chosen["steps_per_execution"] = _STEPS_PER_EXECUTION
    given = {
        "mixed_precision": None if options.mixed_precision == "auto" else options.mixed_precision,
        "jit_compile": options.jit_compile,
        "steps_per_execution": options.steps_per_execution or None,
    }
    for source in (recorded or {}, given):
        chosen.update({key: source[key] for key in chosen if source.get(key) is not None})
    return DeviceSettings(device, name, **chosen)


def _find_device(strategy):
    """`(kind, name, whether it computes in bfloat16)` of the first device."""
    if strategy == "tpu":
        return "tpu", "", True
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "cpu", "", False
    details = tf.config.experimental.get_device_details(gpus[0])
    capability = details.get("compute_capability") or (0, 0)
    return "gpu", details.get("device_name", ""), tuple(capability) >= _BFLOAT16_CAPABILITY


def _replicas(strategy):
    """Replicas of this machine's devices, as far as they count for XLA, which compiles one replica's step."""
    if strategy in ("tpu", "multi_worker"):
        return 0  # a TPU's step is compiled in any case; collectives of several machines are left out of XLA
    return len(tf.config.list_physical_devices("GPU")) if strategy == "mirrored" else 1
