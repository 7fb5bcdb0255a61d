"""vit-export within the tests' own process, which has PyTorch loaded."""

import contextlib
import io
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from support import Run
from vit_engine.cli import exit_codes


@pytest.fixture
def run_command(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """As everywhere; but vit-export, unless a time-out is given, starts no process."""

    def run(name: str, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        if name != "vit-export" or "timeout" in options:
            return run_command(name, *arguments, **options)
        line = [name, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", line)
        monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        out, err = io.StringIO(), io.StringIO()
        handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            with (
                contextlib.chdir(options.get("cwd", ".")),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                warnings.catch_warnings(action="default"),  # told, as in a process of its own
            ):
                code = exit_codes.start(name, "vit_export.cli")
        except SystemExit as e:
            code = int(e.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return subprocess.CompletedProcess(line, code, out.getvalue(), err.getvalue())

    return run
