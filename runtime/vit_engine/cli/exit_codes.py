"""How every command starts and ends: one line on stderr, and an exit code."""

import contextlib
import os
import signal
import sys
from importlib import import_module
from typing import Any, TextIO

from vit_engine.cli import signals
from vit_engine.errors import MachineError, VitError, check_system, format_limit


def start(name: str, module: str) -> int:
    """Run the `main` of a command's module; return its exit code, whatever has gone wrong.

    A failure that is foreseen is told in one line. 130 and 143 after SIGINT and SIGTERM, 141 where
    the reader of stdout has gone, as for any program that SIGPIPE ends. A standard stream that is
    closed or full never takes the place of the failure that is told.
    """
    _open_closed_streams()
    sys.stderr = _Stderr(sys.stderr)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # There is nothing to clean up yet, and a traceback out of an import tells nobody anything.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        check_system()
        main = import_module(module).main
        signals.raise_on_signals()
        code: int = main()
        sys.stdout.flush()
    except VitError as e:
        message, code = str(e), e.exit_code
    except KeyboardInterrupt as e:
        number = e.args[0] if e.args else signal.SIGINT
        message = "terminated" if number == signal.SIGTERM else "interrupted"
        code = 128 + number
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except (ImportError, OSError, MemoryError, RuntimeError) as e:
        if (limit := format_limit(e)) is None:
            raise
        message, code = limit, MachineError.exit_code
    else:
        return code
    finally:
        _flush(sys.stdout, 1)
    sys.stderr.write(f"{name}: {message}\n")
    return code


class _Stderr:
    """stderr for messages: where it takes nothing more, they are dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write and flush the text."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        _flush(self._stream, 2)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _open_closed_streams() -> None:
    """Put a stream on each standard descriptor that is closed, so that no other file gets there.

    Reading finds nothing, and writing fails as it would have.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _attach_null(descriptor, os.O_RDONLY)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def _flush(stream: TextIO, descriptor: int) -> None:
    """Write what is left for a stream, or drop it: Python would exit with 120 because of it."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError):
            _attach_null(descriptor, os.O_WRONLY)


def _attach_null(descriptor: int, flags: int) -> None:
    opened = os.open(os.devnull, flags)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)
