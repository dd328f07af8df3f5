"""Private calls into Keras, Beam and argparse, in one place: what to check when one of them is upgraded.

Each function names what it calls and the versions in which that was seen to work. Nothing here imports Keras
or Beam before it is called.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import Any


def producer(tensor: Any) -> Any:
    """The operation, most often a layer, that a symbolic Keras tensor is the output of.

    Private: `KerasTensor._keras_history`, Keras 3.12 to 3.15.
    """
    return tensor._keras_history.operation


def flat_layers(model: Any) -> list[Any]:
    """All layers of a model, those of nested models too, in the model's order.

    Private: `Layer._flatten_layers`, Keras 3.12 to 3.15.
    """
    return list(model._flatten_layers(include_self=False, recursive=True))


def own_variables(layer: Any) -> list[Any]:
    """The weights that a layer itself has, without those of layers within it, in the order they were made.

    Private: `Layer._trainable_variables` and `_non_trainable_variables`, Keras 3.12 to 3.15.
    """
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def build_symbolically(model: Any, batch: Sequence[Any]) -> None:
    """Builds the metrics of a compiled model from symbolic tensors, so that `fit` no longer needs a batch.

    Private: `Trainer._symbolic_build` and `_maybe_symbolic_build`, Keras 3.12 to 3.15.

    Args:
        model: a compiled `keras.Model`.
        batch: `KerasTensor` of the images and of the labels.
    """
    model._symbolic_build(data_batch=tuple(batch))
    model._maybe_symbolic_build = lambda *args, **kwargs: None


def without_autocast() -> Any:
    """Context in which variables are read in their own number format, also within a layer of another.

    Private: `keras.src.backend.common.variables.AutocastScope`, Keras 3.12 to 3.15.
    """
    from keras.src.backend.common.variables import AutocastScope

    return AutocastScope(None)


def flags_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The spellings of all flags of a parser.

    Private: `ArgumentParser._option_string_actions`, Python 3.10 to 3.13.
    """
    return iter(parser._option_string_actions)


def add_beam_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of every options class of Beam that is imported.

    Private: `PipelineOptions._add_argparse_args`, Beam 2.65 to 2.77.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    classes: list[Any] = [PipelineOptions]
    while classes:
        options_class = classes.pop(0)
        classes += sorted(options_class.__subclasses__(), key=lambda each: each.__qualname__)
        if "_add_argparse_args" in options_class.__dict__:
            options_class._add_argparse_args(parser)


def stream_matches(pattern: str) -> Iterator[Any]:
    """Yields the `FileMetadata` of each remote file that a glob pattern matches; `match` holds all in memory.

    Private: `FileSystem._list` and `_url_dirname`, Beam 2.65 to 2.77.
    """
    from apache_beam.io.filesystems import FileSystems

    filesystem = FileSystems.get_filesystem(pattern)
    folder = re.split(r"[\[*?]", pattern, maxsplit=1)[0]
    if filesystem.has_dirs():
        folder = filesystem._url_dirname(folder)
    return filesystem.match_files(filesystem._list(folder), pattern)


def file_system_options() -> Any:
    """The options that Beam's file systems work with: those of the latest pipeline, or None before one.

    Private: `FileSystems._pipeline_options`, Beam 2.65 to 2.77.
    """
    from apache_beam.io.filesystems import FileSystems

    return FileSystems._pipeline_options


def job_id_of(result: Any) -> str:
    """The id of a job on a portable runner, empty where there is none; Dataflow's result has a public one.

    Private: `portable_runner.PipelineResult._job_id`, Beam 2.65 to 2.77.

    Args:
        result: `PipelineResult`.
    """
    return getattr(result, "_job_id", "")


WORKER_MODULE = "wsss.pipeline.execution.worker"
"""What a worker process of a local job imports before it begins."""


def local_beam_runner(options: Any) -> Any:
    """Beam's in-process runner, whose worker processes see the pipeline's options.

    Internal modules, not part of Beam's documented interface: `fn_api_runner.fn_runner` and
    `portable_runner.JobServiceHandle`, Beam 2.65 to 2.77.

    Args:
        options: `PipelineOptions`.

    Returns:
        `FnApiRunner`.
    """
    from apache_beam.options.pipeline_options import SetupOptions
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import fn_runner
    from apache_beam.runners.portability.portable_runner import JobServiceHandle

    setup = options.view_as(SetupOptions)
    setup.beam_plugins = [*(setup.beam_plugins or []), WORKER_MODULE]
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(provision))
