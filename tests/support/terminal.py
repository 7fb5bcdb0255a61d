"""vit-infer on a terminal."""

import os
import pty
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("vit-infer")


def on_a_terminal(*arguments: str | Path, stdin: Path | None = None, **environment: str) -> str:
    """Run vit-infer with a terminal for stdout and stderr; return what it shows."""
    ours, theirs = pty.openpty()
    line = [PROGRAM, "-m", "demo", "--provider", "cpu", *map(str, arguments)]
    variables = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | environment
    shown = b""
    with (
        (stdin or Path(os.devnull)).open() as given,
        subprocess.Popen(line, stdin=given, stdout=theirs, stderr=theirs, env=variables),
    ):
        os.close(theirs)
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # EIO: the other side is closed
            pass
        finally:
            os.close(ours)
    return shown.decode()
