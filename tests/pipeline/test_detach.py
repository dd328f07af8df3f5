"""`--detach`: a job that outlives the program which began it, and the results that `wsss.report` gathers."""

import time

import pytest
from apache_beam.runners.portability.local_job_service import LocalJobServicer

from tests.pseudo_label_cases import label, tree
from wsss.common import io
from wsss.pipeline.output import Layout
from wsss.report import main as report

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster():
    """Flags of a job server, in this process, that outlives the command."""
    server = LocalJobServicer()
    endpoint = f"localhost:{server.start_grpc_server(0)}"
    yield (
        "--runner=PortableRunner",
        f"--job_endpoint={endpoint}",
        "--environment_type=beam:env:embedded_python:v1",
    )
    server.stop()


def wait_for_shards(output, count):
    end = time.monotonic() + 120
    while len(Layout(str(output)).manifest_paths()) < count:
        assert time.monotonic() < end, "the job did not finish"
        time.sleep(0.1)


def test_a_job_that_was_left_is_gathered_with_the_bytes_of_a_local_run(
    tmp_path, run, labels, cluster, capsys
):
    output = tmp_path / "labels"
    assert label(output, run, "--detach", *cluster) == 0
    said = capsys.readouterr().out
    assert "The job job-" in said
    assert "To stop it: cancel it on the cluster." in said
    assert f"`python -m wsss.report {output}` gathers its results" in said
    wait_for_shards(output, 3)
    manifest = Layout(str(output)).manifest_paths()[0]
    content = io.read_bytes(manifest)
    io.remove(manifest)
    assert report([str(output)]) == 2
    assert "lacks 1 of 3 shards" in capsys.readouterr().err
    io.write_bytes(manifest, content)
    assert report([str(output)]) == 0
    assert tree(output) == tree(labels)


def test_detach_is_refused_where_the_job_would_end_with_the_program(tmp_path, run, cluster, capsys):
    output = tmp_path / "labels"
    server = cluster[:2]
    for flags in ((), (*server, "--environment_type=LOOPBACK"), ("--runner=PrismRunner",)):
        assert label(output, run, "--detach", *flags) == 2
        assert "`--detach` is for a job that outlives this program" in capsys.readouterr().err
    assert not output.exists()
