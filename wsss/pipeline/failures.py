"""What went wrong with one image, so that it can be counted and listed instead of stopping the job."""

import re
from typing import NamedTuple

FAILURES = "failures"  # the tag of the outputs that carry them

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
_LONGEST = 300


class Failure(NamedTuple):
    """One line of `errors.jsonl`.

    Attributes:
        shard: name of the shard that holds the image.
        image_id: the image, or the shard itself where a record has no readable id.
        stage: `read`, `decode`, `predict`, `refine` or `write`.
        reason: one line, the same in every run.
    """

    shard: str
    image_id: str
    stage: str
    reason: str


def reason(error):
    """One line about an exception, without what changes from run to run, such as addresses of objects."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
    return _ADDRESS.sub("0x…", text)[:_LONGEST]
