"""Beam's command line flags, and the pipeline that they ask for.

Three points that Beam leaves open are settled here. An unknown or misspelled flag is an error: Beam only
warns, and the job runs with a default. `DirectRunner` is always the in-process `FnApiRunner`: current Beam
tries to download and start another runner (Prism) first, and falls back silently. And what a worker raises,
which Beam wraps, comes out of `run` as it was raised.
"""

import argparse
import contextlib
import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.error import URLError

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
    TestOptions,
)
from apache_beam.runners.runner import create_runner

from wsss.common import compat, io
from wsss.common.cli import Parser, unknown_flag
from wsss.common.errors import UserError
from wsss.pipeline.execution.remote_job import RemoteJob

_logger = logging.getLogger(__name__)
_LOCAL_RUNNERS = frozenset({"direct", "fnapi"})
# Warnings of Beam in every run, though nothing is amiss; those of local workers come from the second logger.
_LOGGERS = (
    None,
    "apache_beam.runners.portability.local_job_service",
    "apache_beam.options.pipeline_options",
    "apache_beam.utils.subprocess_server",
)
_NOTES = (
    "Resource module is not available",  # of each model, where torch is not installed
    "No semi_persistent_directory found",
    # Of Beam's own flags and those that only a cluster's runner knows; `split_arguments` refuses others.
    "Discarding unparseable args",
    "Unparseable argument",
    # Of a job server that Beam starts for the one job.
    "Really starting service",
    "Really destroying service",
    "Waiting for grpc channel to be ready",
)
_ERROR_LOGGERS = (
    None,  # of what a cluster says of a job that fails
    "apache_beam.runners.common",
    "apache_beam.runners.worker.sdk_worker",
    "apache_beam.runners.worker.data_plane",
    "apache_beam.runners.portability.local_job_service",
)
_CLIENT_LIBRARIES = ("google", "grpc")
# How an exception ends in the text of a traceback: its last line, and in it what an `OSError` says.
_STEP = re.compile(r" \[while running '[^']*'\]")
_RAISED = re.compile(
    r"^(?:RuntimeError: )?(?:[\w.]*\.)?(?P<name>UserError|KeyboardInterrupt|\w*Error)(?:: (?P<message>.*?))?"
    r"(?: \[while running '[^']*'\])?$"
)
_NUMBERED = re.compile(r"\[Errno (?P<number>\d+)\] (?P<reason>.*?)(?:: '(?P<path>.*)')?")


def split_arguments(argv: Sequence[str] | None, parser: Parser) -> tuple[argparse.Namespace, list[str]]:
    """Separates a program's own flags from Beam's.

    Args:
        argv: list of str, the command line without the program's name; None takes the process's own.
        parser: the program's `wsss.common.cli.Parser`.

    Returns:
        `(namespace, beam_argv)`: the program's flags parsed, and the rest. Beam knows every one of them, but
        for a portable runner, which has flags of its own, such as Flink's `--object_reuse`.

    Raises:
        UserError: a flag that neither knows, or that is nearly one that they know, or a value that Beam
            cannot read.
    """
    namespace, beam_argv = parser.parse_known_args(argv)
    known = _beam_parser()
    _, unknown = known.parse_known_args(beam_argv)
    if unknown and not _is_portable(beam_argv):
        raise unknown_flag(unknown[0], parser, known)
    for index, text in enumerate(unknown):
        is_value = index > 0 and not text.startswith("-")  # of the flag before
        if not is_value and _resembles(text, parser, known):
            raise unknown_flag(text, parser, known)
    return namespace, beam_argv


def make_pipeline(beam_argv: Sequence[str] = ()) -> beam.Pipeline:
    """A pipeline for the runner that the flags name; without one it runs in this process.

    Args:
        beam_argv: Beam's flags, as from `split_arguments`.

    Returns:
        `beam.Pipeline`. `DirectRunner` (and no runner) is an `FnApiRunner` whose workers, also those of
        `--direct_running_mode=multi_processing --direct_num_workers=N`, see the options; any other runner is
        passed through untouched.

    Raises:
        UserError: a runner that Beam does not know.
    """
    options = _options(beam_argv)
    for logger in _LOGGERS:
        logging.getLogger(logger).addFilter(_is_of_use)
    if is_local(beam_argv):
        return beam.Pipeline(runner=compat.local_beam_runner(options), options=options)
    name = options.view_as(StandardOptions).runner
    try:
        create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"`--runner` must name a Beam runner, such as DirectRunner. {error}") from error
    try:
        return beam.Pipeline(options=options)
    except ValueError as error:  # what Beam misses among the flags, a line each
        _, *problems = str(error).splitlines()
        raise UserError(f"Beam's flags: {' '.join(problems) or error}") from error


def run(pipeline: beam.Pipeline) -> Any:
    """Runs a pipeline to its end. An interrupt stops it, also on a cluster.

    A template, or what a dry run would submit, is not run.

    Returns:
        Beam's `PipelineResult`; None of what is not run.

    Raises:
        UserError: what a worker refused, or a path that it could not use, named in one line; on a cluster,
            that the job failed, with its page and the reason.
        KeyboardInterrupt: the user stopped a worker.
        Exception: what else a worker or the runner raised.
    """
    with _tracebacks_hidden():
        result = _submit(pipeline)
        if not getattr(result, "has_job", True):  # of Dataflow, which has written a template
            return None
        _wait(result, pipeline)
    return result


def start(pipeline: beam.Pipeline) -> RemoteJob:
    """Starts a pipeline on a cluster and leaves it running; see `check_detach`.

    Raises:
        UserError: the cluster refuses it.
    """
    with _tracebacks_hidden():
        return RemoteJob.of(_submit(pipeline), pipeline.options)


def _submit(pipeline):
    try:
        return pipeline.run()
    except Exception as error:
        cause = _root_cause(error)
        if isinstance(cause, URLError):
            raise UserError(
                f"Beam could not fetch the job server of this runner ({cause.reason}). Name a file that is "
                "there: `--flink_job_server_jar`, `--spark_job_server_jar` or `--prism_location`."
            ) from error
        if cause is error and type(error).__module__.split(".")[0] in _CLIENT_LIBRARIES:
            raise UserError(_refusal(error)) from error
        raise cause from error


def _refusal(error):
    """The line for an error of the library through which a job is submitted."""
    if isinstance(error, grpc.FutureTimeoutError):
        return "No job server answers at `--job_endpoint`. Start it, or name another address."
    details = error.details() if isinstance(error, grpc.Call) else str(error)
    return f"The cluster does not take the job: {' '.join(details.split())}"


def _wait(result, pipeline):
    """Waits for a job; on this machine it has ended already."""
    try:
        result.wait_until_finish()
    except KeyboardInterrupt:
        job = RemoteJob.of(result, pipeline.options)
        job.cancel(result)
        _logger.warning("The job %s is canceled.", job.id)
        raise
    except Exception as error:
        cause = _root_cause(error)
        if isinstance(cause, KeyboardInterrupt):
            raise cause from error
        raise RemoteJob.of(result, pipeline.options).failure(cause) from error


def runs_nothing(beam_argv: Sequence[str]) -> str:
    """What the flags ask for in place of a run: `a dry run`, `a template`, or nothing."""
    options = _options(beam_argv)
    if options.view_as(TestOptions).dry_run:
        return "a dry run"
    return "a template" if options.view_as(GoogleCloudOptions).template_location else ""


def check_paths(beam_argv: Sequence[str], paths: Mapping[str, str]) -> None:
    """Checks that workers can reach the paths of a job, before anything is submitted.

    Args:
        beam_argv: Beam's flags.
        paths: name of each flag to its path; empty ones are skipped.

    Raises:
        UserError: a local path, which workers of Dataflow do not see.
    """
    if "dataflow" not in _runner_name(beam_argv):
        return
    for flag, path in paths.items():
        if path and not io.is_remote(path):
            raise UserError(
                f"`--{flag}` must be a path that Dataflow's workers reach, such as gs://bucket/folder. "
                f"Received: {path}."
            )


def check_detach(beam_argv: Sequence[str]) -> None:
    """Checks that a job outlives the program that starts it.

    Raises:
        UserError: the runner or its workers are a part of this program, or nothing is run.
    """
    options = _options(beam_argv).view_as(PortableOptions)
    is_elsewhere = bool(options.job_endpoint) and options.environment_type != "LOOPBACK"
    if runs_nothing(beam_argv) or not (is_elsewhere or "dataflow" in _runner_name(beam_argv)):
        raise UserError(
            "`--detach` is for a job that outlives this program: on Dataflow, or on a runner with "
            "`--job_endpoint` and workers of its own. Leave it out."
        )


def images_in_a_wave(beam_argv: Sequence[str], images_per_wave: int = 0) -> float:
    """Images in a pipeline: locally a bound of memory and a mark of progress, elsewhere all at once."""
    if not is_local(beam_argv):
        return float("inf")
    if images_per_wave:
        return images_per_wave
    return 2048 if any("multi_processing" in flag for flag in beam_argv) else 256


def is_local(beam_argv: Sequence[str] = ()) -> bool:
    """Whether the flags ask for a run on this machine by Beam's local runner, the default."""
    return _runner_name(beam_argv) in _LOCAL_RUNNERS


def repeats_bundles(beam_argv: Sequence[str]) -> bool:
    """Whether the runner repeats a bundle that raises, some times: others fail the job, or are set up to."""
    return "dataflow" in _runner_name(beam_argv)


def for_accelerators(beam_argv: Sequence[str]) -> list[str]:
    """The flags of a job whose workers have an accelerator: on Dataflow, one process a machine.

    Dataflow starts a process for each core, each of which would load the model onto the one card; one process
    works in threads. Flags that choose between the two are left as they are.
    """
    experiment = "use_multiple_sdk_containers"
    if "dataflow" not in _runner_name(beam_argv) or any(experiment in flag for flag in beam_argv):
        return list(beam_argv)
    return [*beam_argv, f"--experiments=no_{experiment}"]


def _is_portable(beam_argv):
    """Whether the runner is one that Beam's Python knows by its job service only, and so not by its flags."""
    return _runner_name(beam_argv) in ("portable", "flink", "spark", "prism", "switching")


def _resembles(text, *parsers):
    """Whether an argument is no flag, or nearly one of the parsers' flags: a slip, and not for the runner."""
    flags = {flag for parser in parsers for flag in compat.flags_of(parser)}
    near = difflib.get_close_matches(text.split("=")[0], flags, n=1, cutoff=0.85)
    return not text.startswith("--") or bool(near)


def _runner_name(beam_argv):
    """Such as `direct` or `dataflow`, of a name in any of Beam's spellings."""
    name = (_options(beam_argv).view_as(StandardOptions).runner or "DirectRunner").lower()
    return name.rsplit(".", 1)[-1].removesuffix("runner")


def _root_cause(error):
    """The exception to show for one that a pipeline raised.

    In this process Beam chains what a DoFn raised to one of its own; of other processes there is only text.
    """
    cause = error
    while cause is not None:
        if isinstance(cause, (UserError, OSError, KeyboardInterrupt, MemoryError)):
            return _without_step(cause)
        cause = cause.__cause__ or cause.__context__
    for line in reversed(str(error).splitlines()):
        found = _RAISED.search(line)
        if found:
            return _rebuild(found["name"], found["message"] or "") or error
    return error


def _rebuild(name, message):
    """The exception that a worker process raised, from the last line of its traceback."""
    if name == "KeyboardInterrupt":
        return KeyboardInterrupt()
    if name == "UserError":
        return UserError(message)
    numbered = _NUMBERED.fullmatch(message)
    return OSError(int(numbered["number"]), numbered["reason"], numbered["path"]) if numbered else None


def _without_step(cause):
    """A `UserError` without the name of the step, which says nothing to a user."""
    return UserError(_STEP.sub("", str(cause))) if isinstance(cause, UserError) else cause


@contextlib.contextmanager
def _tracebacks_hidden():
    """Keeps Beam from logging the traceback of each error that `run` raises."""

    def is_no_traceback(record):
        return not record.exc_info and "Traceback" not in record.getMessage()

    loggers = [logging.getLogger(name) for name in _ERROR_LOGGERS]
    for logger in loggers:
        logger.addFilter(is_no_traceback)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_no_traceback)


def _is_of_use(record):
    """Whether a log record is none of `_NOTES`."""
    text = record.getMessage()
    return not any(note in text for note in _NOTES)


def _options(beam_argv):
    return PipelineOptions(list(beam_argv))


class _BeamParser(Parser):
    """Collects the flags of every options class, which may define the same flag twice."""

    def add_argument(self, *args, **kwargs):
        try:
            return super().add_argument(*args, **kwargs)
        except argparse.ArgumentError:
            return None

    def add_value_provider_argument(self, *args, **kwargs):
        return self.add_argument(*args, **kwargs)

    def error(self, message):
        raise UserError(f"Beam's flags: {message}.")


def _beam_parser():
    parser = _BeamParser(add_help=False)
    compat.add_beam_flags(parser)
    return parser
