"""`wsss.pipeline.execution.worker`: a worker's tracebacks stay off the terminal, all else is shown."""

import io
import traceback

from wsss.pipeline.execution.worker import WithoutTracebacks


def test_a_traceback_is_passed_over_and_all_else_is_written():
    shown = io.StringIO()
    stream = WithoutTracebacks(shown)
    try:
        raise OSError(28, "No space left on device")
    except OSError:
        print("before", file=stream)
        stream.write(traceback.format_exc())
        print("after", file=stream, flush=True)
    assert shown.getvalue() == "before\nafter\n"
