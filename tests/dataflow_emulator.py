"""Dataflow's jobs API (v1b3) on loopback: it keeps what is submitted, and Beam's local runner runs the graph.

What the service itself does, such as machines, images and accelerators, is not there: a job's graph runs in
this process, from the bytes that the program left in the bucket.
"""

import contextlib
import json
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from http import HTTPStatus, server
from types import SimpleNamespace
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow import dataflow_runner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import EmbeddedPythonEnvironment
from google.cloud.dataflow_v1beta3 import JobState

from wsss.common import io

PROJECT, REGION = "wsss-project", "us-central1"
_JOBS = re.compile(rf"/v1b3/projects/{PROJECT}/locations/{REGION}/jobs(?:/([\w-]+)(?:/(messages))?)?$")


class DataflowEmulator:
    """The service.

    Attributes:
        flags: Beam's, with which a program submits to it.
        jobs: those submitted, in order.
        holds: whether jobs wait and never begin.
        refusal: `(status, message)` of the next submissions, or None.
        on_poll: called whenever a program asks for the state of its job.
    """

    def __init__(self, port: int):
        self.flags = (
            "--runner=DataflowRunner",
            f"--project={PROJECT}",
            f"--region={REGION}",
            f"--dataflow_endpoint=http://localhost:{port}",
            "--sdk_location=container",
        )
        self.jobs: list[EmulatedJob] = []
        self.holds = False
        self.refusal: tuple[int, str] | None = None
        self.on_poll: Callable[[], None] = lambda: None

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and content of the answer to a request."""
        found = _JOBS.match(path)
        if not found:
            return 404, _error(404, f"There is no {path}.")
        name, messages = found.groups()
        if method == "POST":
            return self._create(body)
        (job,) = (each for each in self.jobs if each.id == name)
        if method == "PUT":
            job.state = JobState(body["requestedState"]).name
        elif messages:
            return 200, {"jobMessages": job.messages}
        else:
            self.on_poll()
        return 200, job.as_json()

    def end_jobs(self) -> None:
        """Cancels what still runs, and waits for the threads in which Beam asks for the state of a job.

        One that was left would ask on, and draw from Python's `random` between its attempts: the seeds of
        networks that later tests make.
        """
        for job in self.jobs:
            if job.state == "JOB_STATE_RUNNING":
                job.state = "JOB_STATE_CANCELLED"
        self.on_poll = lambda: None
        for thread in threading.enumerate():
            if "poll_for_job_completion" in thread.name:
                thread.join(timeout=60)
                assert not thread.is_alive(), f"{thread.name} does not end"

    def _create(self, body):
        if self.refusal:
            return self.refusal[0], _error(*self.refusal)
        job = EmulatedJob(f"2026-01-01_00_00_00-{len(self.jobs)}", body)
        self.jobs.append(job)
        if not self.holds:
            job.thread.start()
        return 200, job.as_json()


class EmulatedJob:
    """A job as it was submitted.

    Attributes:
        id: its name within the service.
        description: the API's `Job`.
        environment: of that: packages, images, options of the workers.
        graph: Beam's pipeline, as the program has left it in the bucket.
        state: of the API's `JobState`.
        messages: of the API's `JobMessage`, errors of the job.
    """

    def __init__(self, name: str, description: dict[str, Any]):
        self.id, self.description, self.environment = name, description, description["environment"]
        self.options = self.environment["sdkPipelineOptions"]["options"]
        graph = io.read_bytes(self.options["pipelineUrl"])
        self.graph = beam_runner_api_pb2.Pipeline.FromString(graph)
        self.state, self.messages = "JOB_STATE_RUNNING", []
        self.thread = threading.Thread(target=self._run, daemon=True)

    def as_json(self) -> dict[str, Any]:
        """What the service says of it."""
        names = {key: self.description[key] for key in ("name", "clientRequestId") if key in self.description}
        return {"id": self.id, "projectId": PROJECT, "location": REGION, "currentState": self.state, **names}

    def _run(self):
        graph = beam_runner_api_pb2.Pipeline()
        graph.CopyFrom(self.graph)
        here = EmbeddedPythonEnvironment.default().to_runner_api(None)
        for environment in graph.components.environments.values():
            environment.urn, environment.payload = here.urn, here.payload
            del environment.dependencies[:]  # of the image and the staged files, which this process has
        try:
            FnApiRunner().run_via_runner_api(graph, PipelineOptions()).wait_until_finish()
        except Exception:
            time, text = datetime.now(timezone.utc).isoformat(), traceback.format_exc()
            message = {"id": "error", "time": time, "messageText": text}
            self.messages.append({**message, "messageImportance": "JOB_MESSAGE_ERROR"})
            self.state = "JOB_STATE_FAILED"
        else:
            self.state = "JOB_STATE_DONE"


@contextlib.contextmanager
def emulated_dataflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[DataflowEmulator]:
    """The service while the block runs; Beam then asks for a job's state ten times a second."""

    class Handler(server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def _answer(self):
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size) or b"{}")
            status, content = emulator.answer(self.command, self.path.partition("?")[0], body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _answer

    with server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        emulator = DataflowEmulator(http.server_port)
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        sleep = dataflow_runner.time.sleep
        quick = SimpleNamespace(**{**vars(dataflow_runner.time), "sleep": lambda _: sleep(0.1)})
        monkeypatch.setattr(dataflow_runner, "time", quick)
        try:
            yield emulator
        finally:
            emulator.end_jobs()
            http.shutdown()
            thread.join()


def _error(status, message):
    return {"error": {"code": status, "message": message, "status": HTTPStatus(status).phrase.upper()}}
