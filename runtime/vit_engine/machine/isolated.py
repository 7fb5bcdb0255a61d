"""Python in a process of its own."""

import resource
import signal
import sys


def command_line(code: str, *arguments: str) -> list[str]:
    """Return what runs `code` with this process's import path, and `arguments` from sys.argv[1]."""
    path = f"import sys; sys.path[:] = sys.argv[{1 + len(arguments)}:]; "
    return [sys.executable, "-I", "-S", "-c", path + code, *arguments, *filter(None, sys.path)]


def limit_memory(size: int) -> None:
    """Bound this process's address space to `size` bytes, or to the lower limit that it has."""
    _, allowed = resource.getrlimit(resource.RLIMIT_AS)
    most = size if allowed == resource.RLIM_INFINITY else min(size, allowed)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def how_it_ended(returncode: int | None) -> str:
    """Name the signal that ended a process, or its exit code."""
    if returncode and returncode < 0:
        return signal.Signals(-returncode).name
    return f"exit code {returncode}"
