"""Programs tune malloc, for themselves and their children; the library does not."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

from wsss.inference.tiling.malloc_tuning import tune_malloc

ROOT = Path(__file__).resolve().parents[3]


def test_children_inherit_what_is_tuned_and_a_user_has_the_last_word(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    for variable in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.setenv(variable, "0")
        monkeypatch.delenv(variable)
    calls = {}
    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace(mallopt=calls.__setitem__))
    tune_malloc()

    assert calls == {-3: 1 << 26, -1: 1 << 28}
    assert os.environ["MALLOC_ARENA_MAX"] == "7"
    assert os.environ["MALLOC_TRIM_THRESHOLD_"] == str(1 << 28)


def test_without_glibc_nothing_happens(monkeypatch):
    def no_library(name):
        raise OSError

    monkeypatch.setattr("ctypes.CDLL", no_library)
    tune_malloc()


def test_the_image_of_the_workers_sets_the_same_and_only_programs_call_it():
    docker = (ROOT / "pipelines" / "Dockerfile").read_text()
    assert "MALLOC_MMAP_THRESHOLD_=67108864" in docker
    assert "MALLOC_TRIM_THRESHOLD_=268435456" in docker
    callers = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "wsss").rglob("*.py")
        if re.search(r"tune_malloc\(\)", path.read_text()) and path.name != "malloc_tuning.py"
    ]
    assert sorted(callers) == ["wsss/predict.py", "wsss/pseudo_labels.py"]
