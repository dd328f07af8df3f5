"""`wsss.pipeline.execution.runner`: Beam's flags and the local runner."""

import errno
import logging
import os

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from wsss.common.cli import Parser
from wsss.common.errors import UserError
from wsss.pipeline.execution.remote_job import RemoteJob
from wsss.pipeline.execution.runner import (
    check_paths,
    for_accelerators,
    is_local,
    make_pipeline,
    run,
    runs_nothing,
    split_arguments,
)


def _parser():
    parser = Parser()
    parser.add_argument("--output")
    return parser


def test_own_flags_are_parsed_and_beams_passed_on():
    argv = ["--runner", "DirectRunner", "--output=x", "--direct_num_workers=2", "--experiments=a"]
    namespace, rest = split_arguments(argv, _parser())
    assert namespace.output == "x"
    assert rest == ["--runner", "DirectRunner", "--direct_num_workers=2", "--experiments=a"]


def test_a_misspelled_flag_is_an_error_that_names_the_right_one():
    with pytest.raises(UserError, match=r"`--direct_num_worker=2`.*`--direct_num_workers`"):
        split_arguments(["--direct_num_worker=2"], _parser())
    with pytest.raises(UserError, match=r"--outptu.*`--output`"):
        split_arguments(["--outptu", "x"], _parser())
    with pytest.raises(UserError, match="stray"):
        split_arguments(["stray"], _parser())


@pytest.mark.parametrize("flag", [["--object_reuse"], ["--max_bundle_size=9"], ["--execution_mode", "BATCH"]])
def test_a_portable_runner_gets_flags_that_beam_does_not_know(flag):
    argv = ["--runner=FlinkRunner", *flag]
    assert split_arguments(["--output=x", *argv], _parser())[1] == argv
    with pytest.raises(UserError, match=flag[0].split("=")[0]):
        split_arguments([*flag, "--runner=DataflowRunner"], _parser())


def test_slips_are_errors_for_a_portable_runner_too():
    for argument in ("--outputs=x", "--flink_mastr=host", "stray"):
        with pytest.raises(UserError, match=argument.split("=")[0]):
            split_arguments([argument, "--runner=FlinkRunner"], _parser())


def test_a_value_that_beam_cannot_read_is_an_error():
    with pytest.raises(UserError, match="direct_num_workers"):
        split_arguments(["--direct_num_workers=many"], _parser())
    with pytest.raises(UserError, match="direct_running_mode"):
        split_arguments(["--direct_running_mode=multi_process"], _parser())


def test_an_unknown_runner_is_an_error():
    with pytest.raises(UserError, match="DirectRunnr"):
        make_pipeline(["--runner=DirectRunnr"])


@pytest.mark.parametrize(
    "argv", [[], ["--runner=DirectRunner"], ["--runner=direct"], ["--runner", "FnApiRunner"]]
)
def test_local_runs_stay_in_this_process(argv):
    assert is_local(argv)
    assert isinstance(make_pipeline(argv).runner, FnApiRunner)


def test_other_runners_are_left_alone():
    assert not is_local(["--runner=DataflowRunner"])
    assert not is_local(["--runner=FlinkRunner"])


@pytest.mark.slow
def test_worker_processes_run_and_are_not_this_one():
    argv = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    with make_pipeline(argv) as pipeline:
        assert pipeline.options.view_as(DirectOptions).direct_num_workers == 2
        here = os.getpid()
        elsewhere = pipeline | beam.Create([1, 2]) | beam.Map(lambda _: os.getpid() != here)
        assert_that(elsewhere, equal_to([True, True]))


def test_what_beam_warns_of_in_every_run_is_left_out(caplog):
    make_pipeline()
    logger = logging.getLogger("apache_beam.runners.portability.local_job_service")
    logger.warning("Worker: %s", 'message: "No semi_persistent_directory found: …"')
    logger.warning("Worker: %s", 'message: "out of memory"')
    assert [record.getMessage() for record in caplog.records] == ['Worker: message: "out of memory"']


class Raises(beam.DoFn):
    """Raises the given error, as a stage in a worker would."""

    def __init__(self, kind):
        self._kind = kind

    def process(self, _):
        if self._kind == "disk full":
            raise OSError(errno.ENOSPC, "No space left on device", "labels/masks/a.png")
        if self._kind == "refused":
            raise UserError("The model is `bad`.")
        if self._kind == "interrupt":
            raise KeyboardInterrupt
        raise ZeroDivisionError("a fault of ours")


def run_and_raise(kind, *argv):
    pipeline = make_pipeline(argv)
    _ = pipeline | beam.Create([0]) | "Stage" >> beam.ParDo(Raises(kind))
    run(pipeline)


WORKER_PROCESSES = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


@pytest.mark.parametrize("argv", [(), pytest.param(WORKER_PROCESSES, marks=pytest.mark.slow)])
def test_what_a_worker_raises_comes_out_as_it_was_raised(argv, capfd):
    with pytest.raises(OSError, match="No space left") as raised:
        run_and_raise("disk full", *argv)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, "labels/masks/a.png")
    with pytest.raises(UserError, match=r"^The model is `bad`\.$"):
        run_and_raise("refused", *argv)
    with pytest.raises(KeyboardInterrupt):
        run_and_raise("interrupt", *argv)
    if not argv:  # worker processes log by themselves
        assert "Traceback" not in capfd.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        run_and_raise("fault")


def test_a_machine_with_an_accelerator_has_one_process_on_dataflow():
    one = "--experiments=no_use_multiple_sdk_containers"
    assert for_accelerators(["--runner=DataflowRunner"]) == ["--runner=DataflowRunner", one]
    for flags in (["--runner=FlinkRunner"], [], ["--runner=DataflowRunner", one]):
        assert for_accelerators(flags) == flags
    chosen = ["--runner=DataflowRunner", "--experiments=use_multiple_sdk_containers"]
    assert for_accelerators(chosen) == chosen


def test_paths_that_dataflow_cannot_reach_are_refused_before_submission():
    paths = {"model": "gs://bucket/run", "data": "", "output": "labels"}
    with pytest.raises(UserError, match=r"`--output` must be a path that Dataflow's workers reach.*labels"):
        check_paths(["--runner=DataflowRunner"], paths)
    check_paths(["--runner=DataflowRunner"], {**paths, "output": "gs://bucket/labels"})
    check_paths(["--runner=FlinkRunner"], paths)


class ClusterPipeline:
    """A pipeline whose job runs elsewhere, and ends by what `wait` raises."""

    options = PipelineOptions(["--project=p", "--region=r"])

    def __init__(self, wait, cancel=None):
        self._wait, self._cancel, self.canceled = wait, cancel, False

    def run(self):
        return self

    def job_id(self):
        return "job-1"

    def wait_until_finish(self):
        raise self._wait

    def cancel(self):
        self.canceled = True
        if self._cancel:
            raise self._cancel


def test_a_cluster_shows_neither_tracebacks_nor_flags_that_beam_does_not_know(caplog):
    class FailingPipeline(ClusterPipeline):
        def wait_until_finish(self):
            logging.getLogger().error("java.lang.RuntimeException: Traceback (most recent call last): …")
            raise RuntimeError("Quota exceeded.")

    flags = ["--runner=PortableRunner", "--job_endpoint=localhost:1", "--object_reuse"]
    make_pipeline(flags).options.get_all_options()
    with pytest.raises(UserError, match="Quota exceeded"):
        run(FailingPipeline(None))
    assert not caplog.records


def test_an_interrupt_cancels_the_job_on_the_cluster(caplog):
    pipeline = ClusterPipeline(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(pipeline)
    assert pipeline.canceled
    assert "The job job-1 is canceled" in caplog.text


def test_a_job_that_cannot_be_canceled_is_named_with_the_command_that_does():
    pipeline = ClusterPipeline(KeyboardInterrupt(), RuntimeError("no route"))
    with pytest.raises(
        UserError, match=r"job-1 .*no route.*`gcloud dataflow jobs cancel job-1 .*--region=r`"
    ):
        run(pipeline)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Traceback …\n  File x\nZeroDivisionError: a fault\n", "ZeroDivisionError: a fault"),
        (
            "Traceback …\nwsss.common.errors.UserError: The model is `bad`. [while running 'Stage']",
            "The model is `bad`",
        ),
        ("Quota exceeded.", "Quota exceeded"),
    ],
)
def test_a_job_that_failed_is_one_line_with_its_page_and_the_reason(message, reason):
    with pytest.raises(UserError) as raised:
        run(ClusterPipeline(RuntimeError(message)))
    page = "https://console.cloud.google.com/dataflow/jobs/r/job-1?project=p"
    assert str(raised.value) == f"The job job-1 failed: {reason}. See {page}."


@pytest.mark.parametrize(
    ("flag", "instead"), [("--dry_run=True", "a dry run"), ("--template_location=gs://b/t", "a template")]
)
def test_what_runs_nothing_is_known_by_its_flags(flag, instead):
    assert runs_nothing([flag]) == instead
    assert not runs_nothing([])


def test_a_job_of_a_portable_runner_that_failed_names_its_id_once():
    text = "Pipeline job-1 failed in state FAILED: java.net.ConnectException: Connection refused"
    failure = RemoteJob("job-1").failure(RuntimeError(text))
    assert str(failure) == "The job job-1 failed: java.net.ConnectException: Connection refused."


def test_a_job_server_that_cannot_be_fetched_is_one_line(tmp_path):
    jar = f"--flink_job_server_jar=http://localhost:1/{tmp_path.name}.jar"
    pipeline = make_pipeline(["--runner=FlinkRunner", jar, f"--jar_cache_dir={tmp_path}"])
    _ = pipeline | beam.Create([0])
    with pytest.raises(UserError, match=r"could not fetch .*Connection refused.*`--flink_job_server_jar`"):
        run(pipeline)


def test_a_job_server_that_does_not_answer_is_one_line():
    flags = ["--runner=PortableRunner", "--job_endpoint=localhost:1", "--job_server_timeout=1"]
    pipeline = make_pipeline([*flags, "--environment_type=LOOPBACK"])
    _ = pipeline | beam.Create([0])
    with pytest.raises(UserError, match="No job server answers at `--job_endpoint`"):
        run(pipeline)
