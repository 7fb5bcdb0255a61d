"""The report of an evaluation, as JSON."""

import json
from pathlib import Path
from typing import Any

from vit_engine.machine.atomic import write_whole

_KIND = "vit-eval report"
_HEAD = 100  # bytes of a report, in which its kind stands


def write_report(path: Path, model: str, parts: dict[str, dict[str, Any]]) -> None:
    """Write the parts under their names, whole or not at all."""
    document = {"kind": _KIND, "model": model, **parts}
    write_whole(path, f"{json.dumps(document, indent=1)}\n".encode())


def is_report(path: Path) -> bool:
    """Tell whether a file is a report, whichever run's."""
    try:
        with path.open("rb") as file:
            return f'"kind": "{_KIND}"'.encode() in file.read(_HEAD)
    except OSError:
        return False
