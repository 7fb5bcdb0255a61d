"""What the commands share: how they end."""

import os
import signal
import sys
from collections.abc import Callable

from vit_runtime.errors import VitError


def run(name: str, body: Callable[[], int]) -> int:
    """Return the exit code of `body`, and tell a foreseen failure in one line on stderr.

    130 and 143 after SIGINT and SIGTERM, which both unwind the stack; 141 where the reader of
    stdout has gone, as for any program that SIGPIPE ends.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = body()
        sys.stdout.flush()
    except VitError as e:
        sys.stderr.write(f"{name}: {e}\n")
        return e.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted\n")
        return 128 + signal.SIGINT
    except _TerminatedError:
        sys.stderr.write(f"{name}: terminated\n")
        return 128 + signal.SIGTERM
    except BrokenPipeError:
        # What is left in stdout's buffer has no reader; Python would complain of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


class _TerminatedError(BaseException):
    pass


def _terminate(*_: object) -> None:
    raise _TerminatedError
