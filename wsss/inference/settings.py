"""What inference does differently on each kind of device, chosen here and nowhere else."""

import os
from dataclasses import dataclass

_LARGEST_CALL = 1 << 23  # pixels: a larger call keeps no accelerator busier
_ACCELERATOR_SHARE = 0.5  # of the memory of an accelerator, for the maps of all threads
_UNKNOWN_MEMORY = 8 << 30  # bytes: taken for an accelerator that does not report its memory


@dataclass(frozen=True)
class InferenceSettings:
    """How `CamPredictor` runs a network on a device; it changes results by rounding alone.

    Attributes:
        device: "cpu", "gpu" or "tpu".
        pixels_at_once: most pixels in one call of the network, mirrors included; one view of one image may
            exceed it.
        threads: calls in flight at once.
        jit_compile: whether XLA compiles the network for exact image sizes under TensorFlow. JAX always does.
        max_compiled_sizes: how many sizes are compiled. Further ones run in the graph for all sizes
            (TensorFlow), or take the place of the one that was used least recently (JAX).
        max_activation_memory: bytes of activation maps that one call may hold at once under TensorFlow on a
            CPU; a larger call runs tiled. None: no call runs tiled.
    """

    device: str
    pixels_at_once: int
    threads: int
    jit_compile: bool
    max_compiled_sizes: int = 16
    max_activation_memory: int | None = None

    def __post_init__(self):
        for name in ("pixels_at_once", "threads", "max_compiled_sizes"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {getattr(self, name)}.")
        if self.max_activation_memory is not None and self.max_activation_memory < 0:
            raise ValueError(
                f"`max_activation_memory` must not be negative. Received: {self.max_activation_memory}."
            )


def choose_settings(bytes_per_pixel: float, **overrides) -> InferenceSettings:
    """The settings for the device that Keras's backend computes on.

    Args:
        bytes_per_pixel: of activation maps, see `activation_bytes_per_pixel`.
        **overrides: fields of `InferenceSettings`; None leaves the choice to the device.
    """
    device = find_device()
    if device == "cpu":
        chosen = {
            "pixels_at_once": 3 << 18,
            "threads": 2,
            "jit_compile": _backend() == "jax",  # which compiles for exact sizes in any case
            "max_activation_memory": 512 << 20 if _backend() == "tensorflow" else None,
        }
    else:
        threads = max(2, min(4, os.cpu_count() or 2))
        memory = _ACCELERATOR_SHARE * (_accelerator_memory() or _UNKNOWN_MEMORY)
        chosen = {
            "pixels_at_once": max(1, min(_LARGEST_CALL, int(memory / threads / bytes_per_pixel))),
            "threads": threads,
            "jit_compile": True,
        }
    chosen.update({name: value for name, value in overrides.items() if value is not None})
    if device != "cpu" or _backend() != "tensorflow":
        chosen["max_activation_memory"] = None
    return InferenceSettings(device, **chosen)


def find_device() -> str:
    """The kind of device that Keras's backend computes on: "gpu" or "tpu" where there is one, else "cpu"."""
    backend = _backend()
    if backend == "tensorflow":
        import tensorflow as tf

        kinds = {device.device_type for device in tf.config.list_logical_devices()}
    elif backend == "jax":
        import jax

        kinds = {jax.default_backend().upper()}
    else:
        import torch

        kinds = {"GPU"} if torch.cuda.is_available() else {"CPU"}
    return "tpu" if "TPU" in kinds else "cpu" if kinds <= {"CPU"} else "gpu"


def _accelerator_memory():
    """Bytes of the accelerator's memory, or None where the backend does not report it."""
    if _backend() == "jax":
        import jax

        return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if _backend() == "torch":
        import torch

        return torch.cuda.mem_get_info()[1]
    return None


def _backend():
    import keras

    return keras.backend.backend()
