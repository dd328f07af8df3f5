"""Beam's command line flags, and the pipeline that they ask for.

Two things that Beam leaves open are settled here. An unknown or misspelt flag is an error: Beam only warns,
and the job runs with a default. And `DirectRunner` is always the in-process `FnApiRunner`: current Beam tries
to download and start another runner (Prism) first, and falls back silently.
"""

import argparse
import logging

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner

from wsss.common.cli import Parser, unknown_flag
from wsss.common.errors import UserError

_LOCAL_RUNNERS = frozenset({"direct", "fnapi"})
# What Beam warns of in every local run, though nothing is amiss; of workers the second logger tells it.
_LOGGERS = (None, "apache_beam.runners.portability.local_job_service")
_NOTES = (
    "Resource module is not available",  # of each model, where torch is not installed
    "No semi_persistent_directory found",
    "Discarding unparseable args: [\\'--direct_runner_use_stacked_bundle",  # Beam's own, which it adds itself
)


def split_arguments(argv, parser):
    """Separates a program's own flags from Beam's.

    Args:
        argv: list of str, the command line without the program's name; None takes the process's own.
        parser: the program's `wsss.common.cli.Parser`.

    Returns:
        `(namespace, beam_argv)`: the program's flags parsed, and the rest, every one of which Beam knows.

    Raises:
        UserError: a flag that neither knows, or a value that Beam cannot read.
    """
    namespace, beam_argv = parser.parse_known_args(argv)
    known = _beam_parser()
    _, unknown = known.parse_known_args(beam_argv)
    if unknown:
        raise unknown_flag(unknown[0], parser, known)
    return namespace, beam_argv


def make_pipeline(beam_argv=()):
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
    if is_local(beam_argv):
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_is_of_use)
        return beam.Pipeline(runner=_local_runner(options), options=options)
    name = options.view_as(StandardOptions).runner
    try:
        create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"`--runner` must name a Beam runner, such as DirectRunner. {error}") from error
    return beam.Pipeline(options=options)


def is_local(beam_argv=()):
    """Whether the flags ask for a run on this machine by Beam's local runner, the default."""
    name = (_options(beam_argv).view_as(StandardOptions).runner or "DirectRunner").lower()
    return name.rsplit(".", 1)[-1].removesuffix("runner") in _LOCAL_RUNNERS


def _is_of_use(record):
    """Whether a log record is none of `_NOTES`."""
    text = record.getMessage()
    return not any(note in text for note in _NOTES)


def _options(beam_argv):
    return PipelineOptions(list(beam_argv))


def _local_runner(options):
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import fn_runner
    from apache_beam.runners.portability.portable_runner import JobServiceHandle

    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(provision))


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
    classes = [PipelineOptions]
    while classes:
        options_class = classes.pop(0)
        classes += sorted(options_class.__subclasses__(), key=lambda each: each.__qualname__)
        if "_add_argparse_args" in options_class.__dict__:
            options_class._add_argparse_args(parser)
    return parser
