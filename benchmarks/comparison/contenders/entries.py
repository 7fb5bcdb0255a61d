"""Who takes part, as contenders.toml says; a contender's code is its module."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

BASELINE = "pytorch"
PROFILED = "ours-cuda"


@dataclass(frozen=True)
class Entry:
    """A row of the comparison."""

    name: str
    title: str
    module: str
    options: dict[str, Any]
    devices: tuple[str, ...] = ("cpu",)  # where it can run at all
    tasks: tuple[str, ...] = ("classify", "embed")  # what it can do
    absent: str = ""  # why it can run nowhere
    environment: str = ""  # it lives in .venv-ENVIRONMENT; "": in ours
    files: bool = False  # has a path from files to labels
    files_only: bool = False  # and takes part in nothing else

    @property
    def path(self) -> str:
        """Return the module's importable name."""
        return f"{__package__}.{self.module}"

    @property
    def compiles(self) -> bool:
        """Whether each batch size costs a compilation, about the time that loading takes."""
        return "compile" in self.options

    @property
    def slow_start(self) -> bool:
        """Whether it compiles, optimises or quantises for minutes: not in --quick."""
        told = {*self.options, *self.options.values()}
        return not told.isdisjoint({"compile", "optimize", "quantize", "int8", "tensorrt"})


def _entries(section: str) -> tuple[Entry, ...]:
    known = {field.name for field in fields(Entry)}
    table = tomllib.loads(Path(__file__).with_name("contenders.toml").read_text())[section]
    return tuple(
        Entry(
            **{"name": name, **{k: v for k, v in row.items() if k in known}},
            options={k: v for k, v in row.items() if k not in known},
        )
        for name, row in table.items()
    )


CONTENDERS = _entries("contenders")
CEILINGS = _entries("ceilings")
