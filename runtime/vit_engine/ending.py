"""How every command ends: the exit code, and one line on stderr that says why."""

import errno
import os
import signal
import sys
from collections.abc import Callable

from vit_engine.errors import VitError, WriteError


def run(name: str, body: Callable[[], int]) -> int:
    """Run `body` and return its exit code, or that of its VitError, whose text goes to stderr.

    130 and 143 after SIGINT and SIGTERM, which both unwind the stack; 141 where the reader of
    stdout has gone, as for any program that SIGPIPE ends; 4 where a disk is full.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _code(name, body)
    finally:
        _empty_stdout()


def _code(name: str, body: Callable[[], int]) -> int:
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
        return 128 + signal.SIGPIPE
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        sys.stderr.write(f"{name}: {e.strerror}\n")
        return WriteError.exit_code
    return code


def _empty_stdout() -> None:
    """Discard what stdout no longer takes: Python would try again at exit, and end with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _TerminatedError(BaseException):
    pass


def _terminate(*_: object) -> None:
    raise _TerminatedError
