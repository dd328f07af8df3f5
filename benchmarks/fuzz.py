"""Mutated files against every reader: tracebacks, hangs and memory, counted by kind of file.

    python -m benchmarks.fuzz --minutes 5
    python -m benchmarks.fuzz --kind coco --seed 7 --start 1234 --inputs 1   # one input again

Baseline: 0 of each. A reader may refuse an input by the error that it documents (`UserError`, `BadImage`, or
`ValueError`); any other exception is a traceback for the user. An input over 10 seconds is a hang. Every
input follows from the seed and its number, so that one that fails can be run again. The exit code is 1 if any
fails, or if a reader refuses a valid file before any byte of it is changed: such a kind would test nothing.
"""

import argparse
import copy
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import fuzz_exports, fuzz_readers
from benchmarks.fuzz_readers import Reader

QUICK_INPUTS = 300  # of each kind
LONGEST = 10  # seconds an input may take
MOST_MEMORY = 1 << 30  # bytes that an input may add to the peak
WORDS = (
    *(b"", b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"99999999999999999999", b"2147483648", b'""'),
    *(b"[]", b"{}", b"[[[[", b"\x00", b"\xff\xfe", "é".encode(), b"../../x", b"\n", b",", b'"', b"<!ENTITY"),
)
VALUES = (
    *(None, True, -1, 0, 1.5, 255, 1e300, float("nan"), float("inf"), 2**31, 2**63, 10**30),
    *("", " ", "x", "1", "\0", "\ud800", "../../x", "x" * 5000),
    *([], {}, [[]], [None], {"x": []}, [[[1]]]),
)


class Hang(BaseException):
    """Raised by the alarm."""


@dataclass
class Outcome:
    """What the inputs of a kind came to."""

    inputs: int = 0
    refused: int = 0
    valid_refused: int = 0
    hangs: int = 0
    memory: int = 0
    tracebacks: Counter = field(default_factory=Counter)

    @property
    def is_clean(self):
        return not (self.valid_refused or self.hangs or self.memory or self.tracebacks)

    @property
    def accepted(self):
        return self.inputs - self.refused - self.hangs - self.memory - self.tracebacks.total()


def mutate(seed: bytes, other: bytes, rng: random.Random, form: str) -> bytes:
    """A valid file with some bytes changed, or, of JSON, in half of the cases some of its values."""
    if form == "json" and rng.random() < 0.5:
        return mutate_json(seed, rng)
    return mutate_bytes(seed, other, rng, form != "bytes")


def mutate_json(seed: bytes, rng: random.Random) -> bytes:
    """A JSON file with some values removed, repeated, or replaced by those of another type."""
    holder = [json.loads(seed)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(containers(holder))
        container, keys = rng.choice(places)
        if not keys:
            continue
        key, value = rng.choice(keys), copy.deepcopy(rng.choice(VALUES))  # it may be changed in turn
        match rng.randrange(4):
            case 0 if container is not holder:
                del container[key]
            case 1:
                container[key] = rng.choice(rng.choice(places)[1] or [None])  # a key in place of a value
            case 2:
                container[key] = [container[key]] * rng.choice((0, 2, 50))
            case _:
                container[key] = value
    return json.dumps(holder[0]).encode()


def containers(value: Any):
    """Yields `(list or dict, its indices or keys)` of a JSON value, those within others included."""
    if isinstance(value, (list, dict)):
        yield value, list(value) if isinstance(value, dict) else list(range(len(value)))
        for part in list(value.values()) if isinstance(value, dict) else value:
            yield from containers(part)


def mutate_bytes(seed: bytes, other: bytes, rng: random.Random, text: bool) -> bytes:
    """A valid file with some bytes changed, moved, removed or put in."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(data) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 64, len(data) // 3 + 1))
        match rng.randrange(8):
            case 0 if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 1:
                del data[place:]
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = rng.choice(WORDS)
            case 4:
                data[place : place + length] = rng.choice(WORDS)
            case 5:
                number = rng.choice((0, -1, 1, 127, 255, 2**15, 2**31 - 1, -(2**31)))
                packed = struct.pack(rng.choice("<>") + "i", number)
                data[place : place + 4] = packed if not text else str(number).encode()
            case 6:
                data[place:place] = data[place : place + length] * rng.choice((1, 2, 50))
            case 7:
                begin = rng.randrange(len(other) + 1)
                data[place : place + length] = other[begin : begin + length]
    return bytes(data)


def make_readers(folder: Path, quick: bool) -> dict[str, Reader]:
    """The reader of each kind; with `quick` without those that load models, a tenth of a second each."""
    makers = [*fuzz_readers.MAKERS, fuzz_exports.export_readers]
    makers += [] if quick else [fuzz_readers.keras_readers]
    readers: dict[str, Reader] = {}
    for make in makers:
        readers |= make(folder)
    return readers


def run_input(reader: Reader, seed: int, number: int, outcome: Outcome) -> str | None:
    """Reads one mutated file; the traceback, or what else was wrong, or None."""
    rng = random.Random(f"{seed}:{number}")
    data = mutate(rng.choice(reader.seeds), rng.choice(reader.seeds), rng, reader.form)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome.inputs += 1
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        reader.read(data)
    except Hang:
        outcome.hangs += 1
        return f"no end after {LONGEST} s"
    except reader.refusals:
        outcome.refused += 1
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome.tracebacks[f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"] += 1
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) > MOST_MEMORY:
        outcome.memory += 1
        return f"more than {MOST_MEMORY >> 20} MiB"
    return None


def count_valid_refused(reader: Reader, kind: str) -> int:
    """How many of a kind's valid files its reader refuses or fails on; prints each."""
    count = 0
    for index, data in enumerate(reader.seeds):
        try:
            reader.read(data)
        except Exception as error:
            count += 1
            print(f"--- {kind}: valid file {index} is refused: {error!r}", file=sys.stderr)
    return count


def run_kind(reader, kind, seed, start, inputs, seconds) -> Outcome:
    """Reads inputs of a kind until their number or the time is reached; prints the first of each fault."""
    outcome, shown, end = Outcome(), set(), time.monotonic() + seconds
    outcome.valid_refused = count_valid_refused(reader, kind)
    for number in range(start, start + inputs):
        problem = run_input(reader, seed, number, outcome)
        known = len(outcome.tracebacks), outcome.hangs > 0, outcome.memory > 0
        if problem and known not in shown:
            shown.add(known)
            print(f"--- {kind}, --seed {seed} --start {number}:\n{problem}", file=sys.stderr)
        if time.monotonic() > end:
            break
    return outcome


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=5, help="for all kinds together, > 0; default 5")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"the first {QUICK_INPUTS} inputs of each kind, however long they take, without .keras files",
    )
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--kind", default="", help="one kind only; default: all")
    parser.add_argument("--start", type=int, default=0, help="number of the first input; default 0")
    parser.add_argument("--inputs", type=int, default=10**9, help="inputs of each kind at most")
    options = parser.parse_args(argv)
    if options.quick:  # the same inputs on every machine
        options.inputs, options.minutes = min(options.inputs, QUICK_INPUTS), 60
    Image.MAX_IMAGE_PIXELS = None

    def alarm(*_):
        raise Hang

    signal.signal(signal.SIGALRM, alarm)
    with tempfile.TemporaryDirectory() as folder:
        readers = make_readers(Path(folder), options.quick)
        kinds = [options.kind] if options.kind else list(readers)
        seconds = 60 * options.minutes / len(kinds)
        print(f"seed {options.seed}")
        print(f"{'kind':30s} {'inputs':>8s} {'accepted':>8s} {'refused':>8s} {'valid_refused':>13s} ", end="")
        print(f"{'tracebacks':>10s} {'hangs':>6s} {'memory':>6s}")
        outcomes = []
        for kind in kinds:
            outcome = run_kind(readers[kind], kind, options.seed, options.start, options.inputs, seconds)
            outcomes.append(outcome)
            print(
                f"{kind:30s} {outcome.inputs:8d} {outcome.accepted:8d} {outcome.refused:8d} "
                f"{outcome.valid_refused:13d} {outcome.tracebacks.total():10d} {outcome.hangs:6d} "
                f"{outcome.memory:6d}",
                flush=True,
            )
            for place, count in outcome.tracebacks.most_common(5):
                print(f"    {count} x {place}")
    print(f"{sum(outcome.inputs for outcome in outcomes)} inputs")
    return 0 if all(outcome.is_clean for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
