"""Errors at the border to the user: what a user can mend ends in one line and an exit code."""

import contextlib
import errno
import functools
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence

# What a path, a disk or the network refuses. Other numbers are left to show a fault of ours.
_REMEDIES = {
    errno.ENOSPC: "Make room there; the same command goes on.",
    errno.EDQUOT: "Make room there; the same command goes on.",
    errno.EIO: "The disk or network drive reports an error; check it, then run the same command again.",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`).",
    errno.ENOMEM: "Free memory, or work on fewer or smaller images at a time.",
    **dict.fromkeys(
        (
            *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
            *(errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENOTEMPTY),
        ),
        "Name another path.",
    ),
    **dict.fromkeys(
        (errno.ETIMEDOUT, errno.ESTALE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENETUNREACH),
        "The connection failed; run the same command again.",
    ),
}
_USER_ERROR_IN_TEXT = re.compile(r"\bUserError: (.+)")
_NUMBER_IN_TEXT = re.compile(r"errno = (\d+)")  # how HDF5 reports the error of a file


class UserError(ValueError):
    """A mistake of the user's: a wrong flag, a missing file, a malformed table.

    The message names the object, the rule, what came, and the remedy, on one line.
    """


def program(main: Callable) -> Callable:
    """Decorates a program's `main(argv=None) -> int`, so that it ends with a code and at most one line.

    A `UserError`, a path or disk that cannot be used, and want of memory become one line on standard error
    and exit code 2; Ctrl-C gives 130. They are found also where another exception, such as those of Beam,
    was raised from them. Everything else that is raised is a fault of ours and keeps its traceback.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        _print_in_any_encoding()
        try:
            with _without_advice_to_developers():
                return main(argv)
        except BrokenPipeError:  # `… | head` closed our output: not worth a traceback
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            return 130
        except Exception as error:
            causes = list(_causes(error))
            if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
                print("Interrupted.", file=sys.stderr)
                return 130
            line = next(filter(None, map(one_line, causes)), None)
            if line is None:
                raise
            print("error:", " ".join(line.split()), file=sys.stderr)
            return 2

    return run


def one_line(error: BaseException) -> str | None:
    """The message for the user about an exception that is no fault of ours, else None."""
    if isinstance(error, UserError):
        return str(error)
    reported = (
        _USER_ERROR_IN_TEXT.search(str(error)) if type(error).__module__.startswith("tensorflow.") else None
    )
    if reported:  # raised in a function of a `tf.data` pipeline
        return reported[1]
    of_system = _system_error_of_tensorflow(error)
    if of_system:
        return of_system
    if isinstance(error, UnicodeEncodeError) and sys.getfilesystemencoding() not in ("utf-8", "utf8"):
        return (
            f"A file name cannot be written here, where names are {sys.getfilesystemencoding()}. "
            "Set the environment variable PYTHONUTF8=1, or a locale of UTF-8."
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's
        return "Memory ran out. Work on fewer or smaller images at a time."
    if isinstance(error, OSError):
        number = error.errno
        found = _NUMBER_IN_TEXT.search(str(error))
        if number is None and found:
            number = int(found[1])
        if number in _REMEDIES:
            return _line_of_system(number, error.filename)
    return None


def _line_of_system(number, path):
    return f"{path or 'A file'}: {os.strerror(number)}. {_REMEDIES[number]}"


def _system_error_of_tensorflow(error):
    """The line for an error of the system that TensorFlow gives in words: `path; No space left on device`."""
    if type(error).__module__.startswith("tensorflow."):
        for number in _REMEDIES:
            found = re.search(rf"(?m)^(?:{{{{.*?}}}} )?(.+?); {re.escape(os.strerror(number))}", str(error))
            if found:
                return _line_of_system(number, found[1])
    return None


def _causes(error):
    """An exception and those that it was raised from, the outermost first."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return seen


@contextlib.contextmanager
def _without_advice_to_developers():
    """Hides what packages announce for their next versions, unless Python was started with `-W`.

    Google's clients do so on import, in several lines each: of Python, and of the packages that they use.
    """
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore", FutureWarning)
        yield


def _print_in_any_encoding():
    """Lets a terminal of a smaller character set, such as cp1252, show `?` where it lacks a character."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
