"""What a job does and what it costs, as Beam counters and distributions in the namespace `wsss`.

Counters are `images_read`, `images_labeled`, `failed_STAGE_KIND`, `retries` and `bytes_written`;
distributions `image_bytes` and the microseconds of `STEPS`. Dataflow and Flink show them while a job runs.
What is the same in every run stands in `summary.json` too; seconds do not: two runs write the same bytes.
"""

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from apache_beam.metrics import Metrics, MetricsFilter

NAMESPACE = "wsss"
STEPS = ("decode", "network", "refinement", "scoring", "writing")
_MICROSECONDS = "_microseconds"


def count(name: str, by: int = 1) -> None:
    """Adds to a Beam counter."""
    _counter(name).inc(by)


def record(name: str, value: int) -> None:
    """Adds a value to a Beam distribution, which keeps count, sum, least and greatest."""
    _distribution(name).update(value)


@contextlib.contextmanager
def timed(step: str) -> Iterator[None]:
    """Records how long a block takes, wall time of a worker's thread, as `STEP_microseconds`.

    Args:
        step: one of `STEPS`.
    """
    begin = time.perf_counter_ns()
    try:
        yield
    finally:
        record(step + _MICROSECONDS, (time.perf_counter_ns() - begin) // 1000)


def seconds_of(result: Any) -> Counter[str]:
    """Seconds of the workers' threads by step, of a pipeline that this program has run.

    Args:
        result: Beam's `PipelineResult`.
    """
    found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    seconds: Counter[str] = Counter()
    for each in found["distributions"]:
        name = each.key.metric.name
        if name.endswith(_MICROSECONDS):
            seconds[name.removesuffix(_MICROSECONDS)] += each.committed.sum / 1e6
    return seconds


def describe_seconds(seconds: Mapping[str, float]) -> str:
    """The seconds in one line, in the order of `STEPS`; empty where nothing was measured."""
    parts = [f"{step} {seconds[step]:.1f}" for step in STEPS if step in seconds]
    return f"Seconds of all workers: {', '.join(parts)}." if parts else ""


@functools.cache
def _counter(name: str) -> Any:
    return Metrics.counter(NAMESPACE, name)


@functools.cache
def _distribution(name: str) -> Any:
    return Metrics.distribution(NAMESPACE, name)
