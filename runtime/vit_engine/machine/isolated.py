"""Python in a process of its own."""

import signal
import sys


def command_line(code: str, *arguments: str) -> list[str]:
    """Return what runs `code` with this process's import path, and `arguments` from sys.argv[1]."""
    path = f"import sys; sys.path[:] = sys.argv[{1 + len(arguments)}:]; "
    return [sys.executable, "-I", "-S", "-c", path + code, *arguments, *filter(None, sys.path)]


def how_it_ended(returncode: int | None) -> str:
    """Name the signal that ended a process, or its exit code."""
    if returncode and returncode < 0:
        return signal.Signals(-returncode).name
    return f"exit code {returncode}"
