"""Dead letters: images that failed are counted and listed, and the job goes on.

Beam's own `with_exception_handling` passes on the whole element, here an encoded image with its score maps,
and the exception as text. What is kept here is one line, whether another try may succeed, and a counter of
each stage and kind of error.

Failures travel in the same PCollection as the images, and later stages pass them on. With an output of their
own the graph would fork and join again, and at a join runners wait for all images of the job: no shard would
be finished before the last one.

Want of memory, or a network that is away for a moment, is nothing about the image: the call is repeated here,
twice at most, since not every runner repeats a bundle. What still fails is listed as `transient`; where the
runner does repeat bundles, `wsss.pipeline.stages.finish` hands the shard back to it once, and the next run of
the program does the shard again.
"""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam

from wsss.common.errors import UserError
from wsss.pipeline.execution import measures

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
_LONGEST = 300
# Errors of TensorFlow's runtime that are about the machine; named here, since TensorFlow is not imported.
_TRANSIENT_NAMES = frozenset({"ResourceExhaustedError", "UnavailableError", "AbortedError"})
# Transient errors that do not pass by themselves, but when the user has mended what is missing.
_UNTIL_MENDED = frozenset(
    {"FileNotFoundError", "PermissionError", "IsADirectoryError", "NotADirectoryError", "BadScores"}
)
_PAUSES = (0.1, 1.0)  # seconds before a call is repeated
_STEPS = {"refine": "refinement", "score": "scoring"}  # whose seconds are measured, by the stage's name


class Failure(NamedTuple):
    """One line of `errors.jsonl`.

    Attributes:
        shard: name of the shard that holds the image.
        image_id: the image, or the shard itself where a record has no readable id.
        stage: `read`, `decode`, `predict` or, of stored scores, `scores`; `refine`, `score` or `write`.
        reason: one line, the same in every run.
        transient: whether another run may succeed: the file was missing, or memory ran out.
    """

    shard: str
    image_id: str
    stage: str
    reason: str
    transient: bool = False

    @classmethod
    def of(cls, shard: str, image_id: str, stage: str, error: BaseException) -> "Failure":
        """The failure of an image by an exception."""
        return cls(shard, image_id, stage, describe_error(error), is_transient(error))

    @property
    def kind(self) -> str:
        """Name of the exception."""
        return re.split(r"\W", self.reason, maxsplit=1)[0]

    @property
    def may_pass(self) -> bool:
        """Whether the same may succeed a little later, without anything being mended."""
        return self.transient and self.kind not in _UNTIL_MENDED


class ShardEnd(NamedTuple):
    """Follows the images of a shard through the stages, so that the last stage knows when all are there.

    Attributes:
        shard: name of the shard.
        source: fingerprint of its content.
        images: number of images and failures that were sent.
    """

    shard: str
    source: str
    images: int


PASSED_ON = (Failure, ShardEnd)  # what stages pass on as it is


def describe_error(error: BaseException) -> str:
    """One line about an exception, without what changes from run to run, such as addresses of objects."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
    return _ADDRESS.sub("0x…", text)[:_LONGEST]


def is_transient(error: BaseException) -> bool:
    """Whether an exception is about the machine, its memory or its files, and not about the image."""
    return isinstance(error, (OSError, MemoryError)) or type(error).__name__ in _TRANSIENT_NAMES


def count_failure(failure: Failure) -> None:
    """Adds to the Beam counter of the failure's stage and kind, such as `failed_decode_BadImage`."""
    measures.count(f"failed_{failure.stage}_{failure.kind}")


def with_retries(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a call, which is repeated, twice at most, while it fails for what may pass by itself.

    Raises:
        Exception: what the call raises, the last time or for a reason that stays.
    """
    for pause in _PAUSES:
        try:
            return function(*args)
        except Exception as error:
            if not is_transient(error) or type(error).__name__ in _UNTIL_MENDED:
                raise
        time.sleep(pause)  # out of the handler, whose traceback holds the arrays of the call
        measures.count("retries")
    return function(*args)


def with_dead_letter(
    stage: str, function: Callable[..., Any], *args: Any, setup: Callable[[], Any] | None = None
) -> beam.PTransform:
    """Maps images through a pure function; one that raises becomes a `Failure`, which later stages pass on.

    Args:
        stage: what `Failure`s name as their stage, `refine` or `score`.
        function: module-level function on an element with an `input`, an `InputImage`.
        *args: its further arguments.
        setup: function without arguments, module-level or a `partial` of one, that a worker calls once before
            the first image. What it raises fails the job: it is about no image.
    """
    return beam.ParDo(_WithDeadLetter(stage, function, args, setup))


class _WithDeadLetter(beam.DoFn):
    def __init__(self, stage, function, args, setup):
        self._stage, self._function, self._args, self._setup = stage, function, args, setup

    def setup(self) -> None:
        if self._setup is not None:
            self._setup()

    def process(self, element: Any) -> Iterator[Any]:
        if isinstance(element, PASSED_ON):
            yield element
            return
        try:
            with measures.timed(_STEPS[self._stage]):
                outcome = with_retries(self._function, element, *self._args)
        except UserError:  # of a model that a worker cannot load, say: it is about no image
            raise
        except Exception as error:  # a pure function on one image: whatever it raises is about the image
            image = element.input
            outcome = Failure.of(image.shard, image.record.image_id, self._stage, error)
        yield outcome
