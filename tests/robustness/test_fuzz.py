"""The fuzz program itself: valid files are read, inputs can be made again, and it fails where it must."""

import json
import random
import subprocess
import sys

import pytest

from benchmarks import fuzz
from wsss.common.errors import UserError


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    return fuzz.make_readers(tmp_path_factory.mktemp("fuzz"), quick=True)


def test_the_files_that_are_mutated_are_valid(readers):
    for kind, reader in readers.items():
        for seed in reader.seeds:
            reader.read(seed)
        assert fuzz.count_valid_refused(reader, kind) == 0


def test_a_reader_that_refuses_a_valid_file_makes_the_fuzz_fail(capsys):
    def refuse(data):
        raise UserError("never")

    outcome = fuzz.run_kind(fuzz.Reader([b"x"], refuse), "closed", seed=0, start=0, inputs=5, seconds=60)
    assert (outcome.accepted, outcome.refused, outcome.valid_refused) == (0, 5, 1)
    assert not outcome.is_clean
    assert "closed: valid file 0 is refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    "kind", ["image", "mask", "table", "coco", "record", "config", "scores", "pth", "params"]
)
def test_a_hundred_mutations_of_each_kind_are_read_or_refused(readers, kind):
    outcome = fuzz.run_kind(readers[kind], kind, seed=11, start=0, inputs=100, seconds=60)
    assert outcome.is_clean, outcome
    assert outcome.refused > 10


def test_an_input_follows_from_its_number():
    for form in ("bytes", "text", "json"):
        one, two = (fuzz.mutate(b"[1, {}]", b"[]", random.Random("0:5"), form) for _ in range(2))
        assert one == two


def test_json_is_changed_by_its_values_too():
    rng = random.Random(0)
    changed = {fuzz.mutate_json(b'{"a": [1, {"b": "x"}]}', rng) for _ in range(100)}
    assert len(changed) > 50
    for data in changed:
        json.loads(data)


def test_a_traceback_is_counted_and_shown(capsys):
    reader = fuzz.Reader([b"x"], lambda data: {}["key"])
    outcome = fuzz.run_kind(reader, "broken", seed=0, start=3, inputs=5, seconds=60)
    assert outcome.tracebacks.total() == 5
    assert not outcome.is_clean
    assert capsys.readouterr().err.count("--- broken, --seed 0 --start 3") == 1


@pytest.mark.slow
def test_the_program_says_its_seed_and_ends_with_0():
    command = [sys.executable, "-m", "benchmarks.fuzz", "--quick", "--kind", "table", "--inputs", "50"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "seed 0")
