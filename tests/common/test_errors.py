"""Programs end with a code and at most one line, whatever goes wrong around them."""

import errno
import os
import subprocess
import sys

import pytest

from wsss.common.errors import UserError, one_line, program


def raise_from(cause, error):
    """Raises `error` from `cause`, as Beam raises what a worker raised."""
    try:
        raise cause
    except BaseException as caught:
        raise error from caught


def run(error, cause=None):
    @program
    def main(argv=None):
        if cause is None:
            raise error
        raise_from(cause, error)

    return main([])


def of_system(number, *path):
    return OSError(number, os.strerror(number), *path)


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (
            UserError("`--data` must be a folder.\n  Received: x."),
            ["`--data` must be a folder. Received: x."],
        ),
        (of_system(errno.ENOSPC, "/full/mask.png"), ["/full/mask.png: No space left", "Make room"]),
        (of_system(errno.EIO), ["Input/output error"]),
        (of_system(errno.ENOENT, "gone"), ["gone: No such file"]),
        (MemoryError(), ["Memory ran out"]),
        (OSError("Can't write (errno = 28, error message = 'No space left on device')"), ["No space left"]),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(capsys, error, parts, wrapped):
    code = run(RuntimeError("[while running 'Map']"), error) if wrapped else run(error)
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in parts)


@pytest.mark.parametrize(("flags", "heard"), [([], False), (["-W", "default"], True)])
def test_announcements_of_other_packages_are_heard_only_on_request(flags, heard):
    code = (
        "import warnings\n"
        "from wsss.common.errors import UserError, program\n"
        "@program\n"
        "def main(argv=None):\n"
        "    warnings.warn('Version 9 will need Python 4.', FutureWarning)\n"
        "    raise UserError('no such file')\n"
        "main([])\n"
    )
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True)
    assert ("Python 4" in done.stderr) == heard
    assert done.stderr.splitlines()[-1] == "error: no such file"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("runs/a b; No space left on device", "runs/a b: No space left on device. Make room"),
        (
            "{{function_node __wrapped__Flush}} gone/e.v2; No such file or directory\n\tmore [Op:x]",
            "gone/e.v2: No such file or directory. Name",
        ),
        ("failed to allocate memory [Op:Conv2D]", "Memory ran out."),
    ],
)
def test_errors_of_a_disk_that_tensorflow_reports_in_words_are_one_line(text, line):
    kind = type(
        "ResourceExhaustedError", (Exception,), {"__module__": "tensorflow.python.framework.errors_impl"}
    )
    assert one_line(kind(text)).startswith(line)


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_interrupt_is_code_130(capsys, wrapped):
    assert (run(RuntimeError(), KeyboardInterrupt()) if wrapped else run(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


@pytest.mark.parametrize("error", [KeyError("bug"), RuntimeError("bug"), OSError("bug"), ValueError("bug")])
def test_a_fault_of_ours_keeps_its_traceback(error):
    with pytest.raises(type(error), match="bug"):
        run(error)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_of_a_smaller_character_set_does_not_end_a_finished_job(encoding):
    code = (
        "from wsss.common.errors import program\n"
        "@program\n"
        "def main(argv=None):\n"
        "    print('labels \\u2192 out \\u5199')\n"
        "    return 0\n"
        "raise SystemExit(main())"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"labels ? out ?")


def test_a_closed_pipe_is_no_traceback():
    code = (
        "from wsss.common.errors import program\n"
        "@program\n"
        "def main(argv=None):\n"
        "    for _ in range(100_000): print('line')\n"
        "    return 0\n"
        "raise SystemExit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
