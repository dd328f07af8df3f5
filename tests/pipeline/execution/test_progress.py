"""Progress of a pipeline: who is notified, and what is shown."""

import sys

import pytest

from wsss.pipeline.execution import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by four seconds at each look."""
    now = iter(range(0, 10**6, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))


def test_each_image_is_notified_to_the_innermost_listener():
    notified = []
    progress.tick()
    with progress.listen(lambda: notified.append("outer")):
        with progress.listen(lambda: notified.append("inner")):
            progress.tick()
        progress.tick()
    progress.tick()
    assert notified == ["inner", "outer"]


def test_a_log_gets_a_line_now_and_then(clock, capsys):
    with progress.shown(7) as bar:
        for _ in range(5):
            bar.update()
        bar.update(2)
    assert bar.n == 7
    assert capsys.readouterr().err == "3 of 7 images\n7 of 7 images\n"


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.shown(2) as bar:
        bar.update(2)
    assert "2/2" in capsys.readouterr().err
