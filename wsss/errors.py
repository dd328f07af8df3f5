"""What a user did wrong, said in one line."""

import functools
import os
import sys


class UserError(ValueError):
    """A mistake of the user's: a wrong flag, a missing file, a malformed table.

    The message names the thing, the rule, what came, and the remedy, on one line.
    """


def program(main):
    """Decorates a program's `main(argv=None) -> int`: a `UserError` becomes one line and exit code 2.

    Everything else that is raised is a fault of ours and keeps its traceback.
    """

    @functools.wraps(main)
    def run(argv=None):
        try:
            return main(argv)
        except UserError as error:
            print("error:", " ".join(str(error).split()), file=sys.stderr)
            return 2
        except BrokenPipeError:  # `… | head` closed our output: not worth a traceback
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1

    return run
