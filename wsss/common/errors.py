"""What a user did wrong, said in one line."""

import errno
import functools
import os
import sys

# A path that cannot be used or written as the user wants: no permission, a file in the place of a folder, …
_WRONG_PATH = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
}


class UserError(ValueError):
    """A mistake of the user's: a wrong flag, a missing file, a malformed table.

    The message names the thing, the rule, what came, and the remedy, on one line.
    """


def program(main):
    """Decorates a program's `main(argv=None) -> int`: a `UserError` becomes one line and exit code 2.

    So does a path that may not be read or written. Everything else that is raised is a fault of ours and
    keeps its traceback.
    """

    @functools.wraps(main)
    def run(argv=None):
        try:
            return main(argv)
        except UserError as error:
            return _refuse(error)
        except BrokenPipeError:  # `… | head` closed our output: not worth a traceback
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            if error.errno in _WRONG_PATH:
                return _refuse(f"{error.filename or 'a file'}: {error.strerror}. Name another path.")
            raise

    return run


def _refuse(reason):
    print("error:", " ".join(str(reason).split()), file=sys.stderr)
    return 2
