"""What of an unfinished output is safely on disk, and which run it belongs to."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vit_engine.errors import UsageError, printable
from vit_engine.machine.atomic import write_whole

Settings = dict[str, Any]
"""What the rows of a run depend on, as it was resolved: the command's options, and JSON values."""


@dataclass(frozen=True)
class ResumeState:
    """The synced part of an output: `size` bytes with `rows` rows, `failed` of them errors.

    `paths` is the sha256 of the rows' paths, each ended by a NUL.
    """

    settings: Settings
    rows: int
    failed: int
    size: int
    paths: str

    @classmethod
    def loads(cls, text: bytes) -> "ResumeState":
        """Return the state that `write` wrote; ValueError for anything else."""
        try:
            state = cls(**json.loads(text))
        except (TypeError, RecursionError) as e:
            raise ValueError("it has other fields") from e
        counts = (state.failed, state.rows, state.size)
        if not isinstance(state.settings, dict) or any(type(count) is not int for count in counts):
            raise ValueError("its fields have other types")
        if not 0 <= state.failed <= state.rows <= state.size:
            raise ValueError("its numbers are at odds")
        return state

    def write(self, path: Path) -> None:
        """Write the state to a file, whole and synced; WriteError leaves the old one."""
        write_whole(path, json.dumps(asdict(self)).encode())

    def check_settings(self, settings: Settings, output: Path) -> None:
        """Raise UsageError unless `settings` give the rows that `output` was begun with."""
        now = json.loads(json.dumps(settings))
        for name in sorted(now.keys() | self.settings.keys()):
            if self.settings.get(name) != now.get(name):
                shown, was, this = map(_shown, (name, self.settings.get(name), now.get(name)))
                raise UsageError(
                    f"{printable(str(output))} was begun with {shown} {was}, this run "
                    f"has {shown} {this}; use what it was begun with, or start over with "
                    "--overwrite in place of --resume"
                )


def _shown(value: Any) -> str:
    text = printable(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) < 80 else f"{text[:60]}..."
