"""Programs while they start: what takes seconds to import is imported where Ctrl-C is one line."""

import os
import subprocess
import sys

import numpy as np
import pytest

from wsss.__main__ import COMMANDS
from wsss.data.images import encode_mask

SLOW_TO_IMPORT = ("apache_beam", "keras", "matplotlib", "numba", "scipy", "tensorflow")
# Ctrl-C at the first import of one of these.
INTERRUPTED = f"""
import sys


class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name in {SLOW_TO_IMPORT}:
            raise KeyboardInterrupt


sys.meta_path.insert(0, CtrlC())
"""


def run(code, *arguments, **environment):
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_during_the_start_of_a_command_is_one_line(command, tmp_path):
    (tmp_path / "a.png").write_bytes(encode_mask(np.zeros((2, 2), np.uint8)))
    classes = tmp_path / "classes.txt"
    classes.write_text("cow")
    arguments = {
        "convert": [str(tmp_path / "a.pth"), str(tmp_path / "b.keras")],
        "evaluate": ["--predictions", str(tmp_path), "--truth", str(tmp_path), "--classes", str(classes)],
        "demo": ["--output", str(tmp_path / "demo")],
        "report": [str(tmp_path)],
    }.get(command, ["--help"])
    code = f"{INTERRUPTED}\nfrom wsss.{command} import main\nsys.exit(main(sys.argv[1:]))"
    result = run(code, *arguments)
    assert "Traceback" not in result.stderr
    assert (result.returncode, result.stderr) in ((130, "Interrupted.\n"), (0, ""))


def test_a_file_name_beyond_the_encoding_of_the_system_is_one_line(tmp_path):
    code = (
        "import sys\nfrom wsss.common import io\nfrom wsss.common.errors import program\n"
        "sys.exit(program(lambda argv: io.write_text(sys.argv[1] + '/\\xfc.txt', ''))())"
    )
    result = run(code, str(tmp_path), LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert result.returncode == 2
    assert "Set the environment variable PYTHONUTF8=1" in result.stderr
    assert result.stderr.count("\n") == 1
