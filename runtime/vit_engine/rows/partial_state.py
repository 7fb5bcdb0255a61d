"""What of an unfinished output is safely on disk, and which run it belongs to."""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vit_engine.errors import UsageError, one_line, printable
from vit_engine.machine.atomic import write_whole
from vit_engine.rows.target import PARTIAL, STATE, Target

_MOST_BYTES = 2**26  # of a state: what it says of a run fitted into the arguments of a process
_MOST = 2**63 - 1
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Run:
    """A run as it was resolved; names are the command's options, values go into JSON.

    Runs over the same images with equal `settings` give equal rows; `notes` make no difference.
    """

    settings: dict[str, Any]
    notes: dict[str, Any]


@dataclass(frozen=True)
class PartialState:
    """The synced part of an output: its first `bytes`, with `rows` rows, `failed` of them errors.

    `sha256` is that of those bytes, `paths` that of the rows' paths, each ended by a NUL.
    """

    settings: dict[str, Any]
    notes: dict[str, Any]
    rows: int
    failed: int
    bytes: int
    sha256: str
    paths: str

    @classmethod
    def read(cls, target: Target) -> "PartialState | None":
        """Return the state beside a target, None where there is none; UsageError if it is none."""
        path = target.beside(STATE)
        try:
            with os.fdopen(target.open_own(path, os.O_RDONLY), "rb") as file:
                return cls.loads(file.read(_MOST_BYTES).decode("ascii"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as e:
            raise UsageError(
                f"{printable(str(path))}: is no state of an interrupted run, or was damaged "
                f"({printable(one_line(e, 100))}); delete it and "
                f"{printable(str(target.beside(PARTIAL)))} to start over"
            ) from e

    def write(self, path: Path) -> None:
        """Write the state to a file, whole and synced; WriteError leaves the old one."""
        write_whole(path, self.dumps().encode())

    def dumps(self) -> str:
        """Return the state as JSON, sealed: whatever is changed in it can be told."""
        text = json.dumps(asdict(self))
        seal = hashlib.sha256(text.encode()).hexdigest()
        return f'{text[:-1]}, "seal": "{seal}"}}'

    @classmethod
    def loads(cls, text: str) -> "PartialState":
        """Return the state that `dumps` gave; ValueError for anything else."""
        document = json.loads(text)
        names = {field.name for field in fields(cls)}
        if not isinstance(document, dict) or document.keys() != {*names, "seal"}:
            raise ValueError(f"it has not the fields {', '.join(sorted(names))}")
        rows = document["rows"]
        expected = {
            "settings": isinstance(document["settings"], dict),
            "notes": isinstance(document["notes"], dict),
            "rows": _is_count(rows, _MOST),
            "failed": _is_count(rows, _MOST) and _is_count(document["failed"], rows),
            "bytes": _is_count(document["bytes"], _MOST),
            "sha256": _is_sha256(document["sha256"]),
            "paths": _is_sha256(document["paths"]),
        }
        if wrong := [name for name, is_right in expected.items() if not is_right]:
            raise ValueError(f"its {wrong[0]} cannot be {one_line(repr(document[wrong[0]]), 40)}")
        state = cls(**{name: document[name] for name in names})
        if state.dumps() != text:
            raise ValueError("its seal is broken")
        return state

    def check_settings(self, run: Run, output: Path) -> None:
        """Raise UsageError unless `run` would give the rows that `output` was begun with."""
        now = json.loads(json.dumps(run.settings))
        for name in sorted(now.keys() | self.settings.keys()):
            if self.settings.get(name) != now.get(name):
                was, this = _shown(self.settings.get(name)), _shown(now.get(name))
                raise UsageError(
                    f"{printable(str(output))} was begun with {printable(name)} {was}, this run "
                    f"has {printable(name)} {this}; use what it was begun with, or delete it to "
                    "start over"
                )


def _is_count(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _shown(value: Any) -> str:
    text = printable(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) < 80 else f"{text[:60]}..."
