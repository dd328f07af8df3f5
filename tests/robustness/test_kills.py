"""Programs killed while they write: the benchmark's own few kills, and that it notices what is lost."""

import os
import subprocess
import sys

import pytest

from benchmarks import kills


@pytest.mark.slow
def test_programs_that_were_killed_give_the_same_bytes_when_run_again():
    command = [sys.executable, "-m", "benchmarks.kills", "--quick", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 2 + len(kills.QUICK)


BROKEN = """
from pathlib import Path
def main(arguments):
    path = Path(arguments[0])
    done = path.exists() and path.read_text() or ""
    path.write_text("")
    path.write_text(done + "whole")
    return 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_program_that_writes_in_place_is_found(tmp_path):
    """In a process of its own: this one may have used TensorFlow, which a fork does not survive."""
    script = f"""
import sys, types
from pathlib import Path
from benchmarks import kills
module = types.ModuleType("wsss.broken")
exec({BROKEN!r}, module.__dict__)
sys.modules["wsss.broken"] = module
folder = Path(sys.argv[1])
output = folder / "output" / "result.txt"
case = kills.Case("broken", "local", output, [str(output)], (), [str(output)])
print(kills.run_case(case, 2, 0, folder / "log"))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "landed=2, identical=1, lost=1" in done.stdout, done.stderr
    assert "lost after the stop: result.txt" in done.stderr
