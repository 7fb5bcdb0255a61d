"""What of an unfinished output is safely on disk, and which run it belongs to."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vit_engine.atomic import write_whole
from vit_engine.errors import UsageError


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

    `paths` is the sha256 of the rows' paths, each ended by a NUL.
    """

    settings: dict[str, Any]
    notes: dict[str, Any]
    rows: int
    failed: int
    bytes: int
    paths: str

    @classmethod
    def read(cls, path: Path) -> "PartialState | None":
        """Return the state in a file, None where there is none; UsageError if it is no state."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as e:
            output = path.with_suffix("")
            raise UsageError(
                f"{path} cannot be read ({e}); delete it and {output} to start over"
            ) from e

    def write(self, path: Path) -> None:
        """Write the state to a file, whole and synced; WriteError leaves the old one."""
        write_whole(path, json.dumps(asdict(self)).encode())

    def check_settings(self, run: Run, output: Path) -> None:
        """Raise UsageError unless `run` would give the rows that `output` was begun with."""
        now = json.loads(json.dumps(run.settings))
        for name in sorted(now.keys() | self.settings.keys()):
            if self.settings.get(name) != now.get(name):
                was, this = _shown(self.settings.get(name)), _shown(now.get(name))
                raise UsageError(
                    f"{output} was begun with {name} {was}, this run has {name} {this}; "
                    "use what it was begun with, or delete it to start over"
                )


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) < 80 else f"{text[:60]}..."
