"""`wsss.common.tf_import`: what TensorFlow notes on each start stays off the terminal, nothing else does."""

import os
import platform
import subprocess
import sys

import pytest

NOTES = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "I0000 00:00:1.2 3 port.cc:153] oneDNN custom operations are on.\n"
    "E0000 00:00:1.2 3 cuda_platform.cc:52] failed call to cuInit: INTERNAL: UNKNOWN ERROR (303)\n"
)
TROUBLE = "E0000 00:00:1.2 3 cuda_platform.cc:52] failed call to cuInit: CUDA_ERROR_OUT_OF_MEMORY\n"


def run(*arguments, **environment):
    """What a Python process gives back; TensorFlow's level of logging is not ours."""
    inherited = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=inherited | environment
    )


def write_while_filtered(text, end=""):
    lines = ("import os", "from wsss.common import tf_import", "with tf_import._filtered_stderr():")
    inside = (f"  os.write(2, {text.encode()!r})", f"  {end or 'pass'}")
    return run("-c", "\n".join([*lines, *inside, "os.write(2, b'after\\n')"]))


def test_notes_are_left_out_and_all_else_comes_through_in_order():
    done = write_while_filtered(f"{NOTES}{TROUBLE}{NOTES}half a line, ")
    assert done.stderr == f"{TROUBLE}half a line, after\n"


def test_the_last_words_of_a_process_that_aborts_are_heard():
    done = write_while_filtered(f"{NOTES}CPU without AVX\n", end="os.abort()")
    assert done.returncode < 0
    assert done.stderr == "CPU without AVX\n"


@pytest.mark.slow
def test_importing_tensorflow_says_nothing():
    code = "from wsss.common.tf_import import import_tensorflow; import_tensorflow(); import tensorflow"
    done = run("-c", code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["wsss.prepare", "--images", "nowhere", "--labels", "tags.csv", "--output", "out"], "tags.csv"),
        (["wsss.train", "--data", "./nowhere"], "nowhere"),
        (["wsss.train", "--epoch", "3"], "Did you mean `--epochs`?"),
        (["wsss.pseudo_labels", "--model", "nowhere"], "nowhere"),
        (["wsss.predict", "--model", "a.txt", "--images", "b", "--output", "c"], "--images"),
        (["wsss.evaluate", "--predictions", "nowhere", "--truth", "nowhere"], "nowhere"),
        (["wsss.convert", "nowhere.pth", "out.keras"], "nowhere.pth"),
        (["wsss.report", "nowhere"], "nowhere"),
        (["wsss.demo", "--images", "many"], "--images"),
    ],
)
def test_a_wrong_input_is_one_line_on_stderr(arguments, named, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.chdir(tmp_path)
    done = run("-m", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert named in line
    assert list(tmp_path.iterdir()) == [], "a mistake leaves nothing behind"


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorFlow has oneDNN on x86 only")
def test_onednn_is_used_where_asked_for_and_not_where_the_user_forbids_it():
    code = (
        "from wsss.common.tf_import import import_tensorflow; import_tensorflow(onednn=True); "
        "from wsss.layers.conv import has_dilated_gradient; print(has_dilated_gradient())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    for forbidden, expected in (({}, "True"), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "False")):
        command = [sys.executable, "-c", code]
        output = subprocess.check_output(command, text=True, env=environment | forbidden)
        assert output.split() == [expected]
