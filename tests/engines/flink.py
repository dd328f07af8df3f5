"""A Flink cluster on loopback: a JobManager, two TaskManagers and Beam's job server, a JVM each."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
_PACKAGES = (
    "java.lang",
    "java.util",
    "java.nio",
    "sun.nio.ch",
)  # which Flink opens, and Java 17 does not by itself
_JAVA = (
    "java",
    "-Xmx400m",
    "-XX:+UseSerialGC",
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _PACKAGES),
)
# Flink's start scripts work out the memory; the classes that they start want all of it named. Classes come
# from the cluster first, which has all of them, and not from those that the job server sends with a job.
_CONFIGURATION = """
jobmanager.rpc.address: localhost
jobmanager.rpc.port: {rpc}
jobmanager.bind-host: localhost
rest.address: localhost
rest.bind-address: localhost
rest.port: {rest}
taskmanager.host: localhost
taskmanager.bind-host: localhost
taskmanager.numberOfTaskSlots: 2
cluster.evenly-spread-out-slots: true
classloader.resolve-order: parent-first
heartbeat.interval: 1000
heartbeat.timeout: 10000
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 5
restart-strategy.fixed-delay.delay: 1 s
io.tmp.dirs: {folder}
taskmanager.cpu.cores: 1
taskmanager.memory.task.heap.size: 192m
taskmanager.memory.task.off-heap.size: 0m
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 64m
taskmanager.memory.network.min: 32m
taskmanager.memory.network.max: 32m
taskmanager.memory.managed.size: 64m
taskmanager.memory.jvm-metaspace.size: 128m
taskmanager.memory.jvm-overhead.min: 128m
taskmanager.memory.jvm-overhead.max: 128m
"""


@dataclass(frozen=True)
class FlinkCluster:
    """A cluster that runs.

    Attributes:
        job_server_jar: with which `--runner=FlinkRunner` starts a job server of its own.
        master: address of the JobManager, for `--flink_master`.
        job_endpoint: address of the job server, for `--runner=PortableRunner`.
        task_managers: the two processes.
    """

    job_server_jar: Path
    master: str
    job_endpoint: str
    task_managers: tuple[subprocess.Popen, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        """Beam's flags for a run on it, on two slots."""
        return ("--runner=PortableRunner", f"--job_endpoint={self.job_endpoint}", "--parallelism=2")


@contextlib.contextmanager
def flink_cluster(jars: Path, folder: Path) -> Iterator[FlinkCluster]:
    """A cluster while the block runs.

    Args:
        jars: folder of the jars, as `tests/engines/setup.sh` leaves it.
        folder: empty, for its configuration, files and logs.
    """
    rpc, rest, port = _free_ports(3)
    (folder / "flink-conf.yaml").write_text(_CONFIGURATION.format(rpc=rpc, rest=rest, folder=folder))
    job_server_jar, configuration = jars / "job_server.jar", ("--configDir", str(folder))
    master, endpoint = f"localhost:{rest}", f"localhost:{port}"
    cluster = (*_JAVA, "-cp", f"{jars}/*")
    server = (
        *_JAVA,
        "-cp",
        str(job_server_jar),
        _JOB_SERVER,
        "--flink-master",
        master,
        "--job-port",
        str(port),
    )
    ports = ("--artifact-port=0", "--expansion-port=0", f"--artifacts-dir={folder}")
    with contextlib.ExitStack() as stack:
        commands = {
            "job_manager": (*cluster, _JOB_MANAGER, *configuration),
            "task_manager_1": (*cluster, _TASK_MANAGER, *configuration),
            "task_manager_2": (*cluster, _TASK_MANAGER, *configuration),
            "job_server": (*server, *ports),
        }
        processes = {
            name: stack.enter_context(running(command, folder / f"{name}.log"))
            for name, command in commands.items()
        }

        def is_up():
            for name, process in processes.items():
                log = (folder / f"{name}.log").read_text(errors="replace")
                assert process.poll() is None, f"{name} has ended:\n{log[-2000:]}"
            return _task_managers(master) == 2 and is_listening(port)

        wait_until(is_up, seconds=180)
        task_managers = processes["task_manager_1"], processes["task_manager_2"]
        yield FlinkCluster(job_server_jar, master, endpoint, task_managers)


@contextlib.contextmanager
def worker_pool(folder: Path) -> Iterator[tuple[int, int]]:
    """A Beam worker pool, which starts the Python processes of a machine; gives its pid and port."""
    (port,) = _free_ports(1)
    command = (sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}")
    with running(command, folder / "worker_pool.log") as process:
        wait_until(lambda: is_listening(port), seconds=120)
        yield process.pid, port


@contextlib.contextmanager
def running(command: tuple[str, ...], log: Path) -> Iterator[subprocess.Popen]:
    """A process in a group of its own, all of which ends with the block."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Asks again and again until a condition holds.

    Raises:
        TimeoutError: it does not.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"It does not hold within {seconds} s.")
        time.sleep(0.05)


def is_listening(port: int) -> bool:
    """Whether a server on loopback takes connections."""
    with socket.socket() as client:
        return client.connect_ex(("localhost", port)) == 0


def children(pid: int) -> list[int]:
    """The processes that a process has started and that run."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(each) for file in files for each in file.read_text().split()]


def _task_managers(master):
    try:
        with urllib.request.urlopen(f"http://{master}/overview", timeout=10) as answer:
            return json.load(answer)["taskmanagers"]
    except OSError:
        return 0


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]
