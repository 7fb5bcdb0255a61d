"""What the commands share: how they start and how they end."""

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, TextIO

from vit_engine.errors import MachineError, VitError, limit_in_words

ONE_PRESS = 0.5
"""Seconds from one signal to the next that is no other one: nobody presses ^C twice as fast."""

_last_signal = [-math.inf]  # by the monotonic clock


def start(module: str) -> int:
    """Import a command and run its `main`; a signal before that ends the process at once.

    Nothing is to be kept until then, and a traceback out of an import would tell nobody anything.
    """
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.SIG_DFL)
    try:
        main: Callable[[], int] = import_module(module).main
    except (ImportError, OSError, MemoryError) as e:
        if (words := limit_in_words(e)) is None:
            raise
        sys.stderr.write(f"{module}: {words}\n")
        return MachineError.exit_code
    for number, handler in before.items():
        signal.signal(number, handler)
    return main()


def run(name: str, body: Callable[[], int]) -> int:
    """Return the exit code of `body`, and tell a foreseen failure in one line on stderr.

    130 and 143 after SIGINT and SIGTERM, which both unwind the stack; 141 where the reader of
    stdout has gone, as for any program that SIGPIPE ends. A standard stream that is closed or full
    never takes the place of the failure that is told.
    """
    _open_closed_streams()
    sys.stderr = _Told(sys.stderr)
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
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
    except (OSError, MemoryError, RuntimeError) as e:
        if (words := limit_in_words(e)) is None:
            raise
        sys.stderr.write(f"{name}: {words}\n")
        return MachineError.exit_code
    return code


def _open_closed_streams() -> None:
    """Put a stream on each standard descriptor that is closed, so that no other file gets there.

    Reading finds nothing, and writing fails as it would have.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDONLY)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


class _Told:
    """stderr as what is told goes to: where it takes nothing more, nothing more is told."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write and flush the text."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            _drop(2)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _empty_stdout() -> None:
    """Drop what is left for a stdout that takes nothing more: Python would exit with 120 of it."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop(1)


def _drop(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)


class _TerminatedError(BaseException):
    pass


def _terminate(*_: object) -> None:
    if not is_repeated():
        raise _TerminatedError


def _interrupt(*_: object) -> None:
    if not is_repeated():
        raise KeyboardInterrupt


def is_repeated() -> bool:
    """Tell whether the signal that has just come is one with the signal before; count it.

    `timeout -s INT` signals its child and then the group that the child is in; a terminal and the
    program that hands its ^C on do so too.
    """
    before = _last_signal[0]
    _last_signal[0] = time.monotonic()
    return _last_signal[0] - before <= ONE_PRESS
