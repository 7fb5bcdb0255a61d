"""Vectors that a run wrote, read a block at a time, and the nearest of them to others."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import UsageError, did_you_mean, one_line, printable
from vit_engine.machine.installation import pip_install
from vit_engine.outputs.embeddings import Vectors, unit
from vit_engine.rows.vectors import COLUMN, NPY_MAGIC, ROWS_BESIDE

if TYPE_CHECKING:
    import pyarrow.parquet as pq

BLOCK = 16_384
"""Vectors in memory at once."""

Block = tuple[list[str], NDArray[Any]]
"""The paths of images, and their vectors (N, size)."""


@dataclass(frozen=True)
class Neighbour:
    """An image near a query: its path and the cosine of the two vectors."""

    path: str
    cosine: float


class VectorFile:
    """The vectors of a file that vit-infer wrote, or of a folder of Parquet files.

    UsageError where there are none, or not all of one space.
    """

    def __init__(self, path: Path) -> None:
        self._name = printable(str(path))
        self._files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        self.space, self.model, self.size = "", "", 0
        self._check([self._described(file) for file in self._files])

    @property
    def files(self) -> list[Path]:
        """All files that are read: those of vectors, and the rows beside an .npy."""
        beside = [Path(f"{file}{ROWS_BESIDE}") for file in self._files if file.suffix == ".npy"]
        return [*self._files, *beside]

    def nearest(self, queries: Vectors, k: int) -> list[list[Neighbour]]:
        """Return the `k` nearest images of each query (Q, size), nearest first; all are compared.

        One pass over the file, a block at a time, whatever the number of queries.
        """
        ours = unit(queries).astype(np.float32)
        best: list[list[Neighbour]] = [[] for _ in ours]
        for paths, vectors in self._blocks():
            block = np.asarray(vectors, np.float32)
            lengths = np.linalg.norm(block, axis=1)
            cosines = ours @ block.T / np.where(lengths > 0, lengths, 1)
            for found, row in zip(best, cosines, strict=True):
                near = np.argpartition(-row, min(k, len(row)) - 1)[:k]
                found += [Neighbour(paths[i], float(row[i])) for i in near]
                found.sort(key=lambda neighbour: -neighbour.cosine)
                del found[k:]
        return best

    def _check(self, parts: list[dict[str, Any]]) -> None:
        spaces = {part.get("space") for part in parts}
        if len(spaces) != 1 or not all(isinstance(space, str) for space in spaces):
            found = "of several spaces" if len(spaces) > 1 else "that name no space"
            raise UsageError(
                f"{self._name} has vectors {found if parts else 'in no file'}; write them with "
                "vit-infer and one model of vit-export --embed"
            )
        self.space, self.size = str(parts[0]["space"]), int(parts[0]["size"])
        self.model = str(parts[0].get("model", "a model"))

    def _described(self, file: Path) -> dict[str, Any]:
        """Return what a file says of its vectors: space, size, and mostly model."""
        try:
            start = _start_of(file)
            if start.startswith(NPY_MAGIC):
                rows = _parquet(Path(f"{file}{ROWS_BESIDE}"))
                count, size = np.load(file, mmap_mode="r").shape
                if rows.read(["error"]).column(0).null_count != count:
                    raise ValueError(f"the rows beside it are not those of its {count} vectors")
                return {**_about(rows), "size": size}
            if start.startswith(b"PAR1"):
                opened = _parquet(file)
                return {**_about(opened), "size": opened.schema_arrow.field(COLUMN).type.list_size}
            with file.open("rb") as lines:
                for row in map(json.loads, lines):
                    if row[COLUMN] is not None:
                        return {"space": row["space"], "size": len(row[COLUMN])}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
            raise UsageError(
                f"{printable(str(file))} has no vectors of vit-infer ({one_line(e)}); write them "
                "with -o vectors.parquet, vectors.npy or vectors.jsonl"
            ) from e
        except OSError as e:
            near = did_you_mean(str(file)) if isinstance(e, FileNotFoundError) else ""
            raise UsageError(
                f"{printable(str(e.filename or file))}: {e.strerror or e}{near}"
            ) from e
        raise UsageError(f"{printable(str(file))} has no vector: every image in it failed")

    def _blocks(self) -> Iterator[Block]:
        for file in self._files:
            start = _start_of(file)
            if start.startswith(NPY_MAGIC):
                vectors = np.load(file, mmap_mode="r")
                first = 0
                for batch in _parquet(Path(f"{file}{ROWS_BESIDE}")).iter_batches(
                    BLOCK, columns=["path"]
                ):
                    paths = batch.column(0).to_pylist()[: len(vectors) - first]
                    if paths:
                        yield paths, vectors[first : first + len(paths)]
                    first += len(paths)
            elif start.startswith(b"PAR1"):
                for batch in _parquet(file).iter_batches(BLOCK, columns=["path", COLUMN]):
                    whole = batch.filter(batch.column(1).is_valid())
                    if whole.num_rows:
                        numbers = whole.column(1).flatten().to_numpy(zero_copy_only=False)
                        yield whole.column(0).to_pylist(), numbers.reshape(-1, self.size)
            else:
                with file.open("rb") as lines:
                    rows = (row for row in map(json.loads, lines) if row[COLUMN] is not None)
                    while block := list(islice(rows, BLOCK)):
                        if {row["space"] for row in block} != {self.space}:
                            raise UsageError(f"{self._name} has vectors of several spaces")
                        yield (
                            [row["path"] for row in block],
                            np.array([row[COLUMN] for row in block], np.float32),
                        )


def _start_of(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(8)


def _parquet(file: Path) -> "pq.ParquetFile":
    try:
        import pyarrow.parquet as pq
    except ImportError as e:
        raise UsageError(f"{printable(str(file))} needs pyarrow; {pip_install('parquet')}") from e
    return pq.ParquetFile(file, memory_map=True)


def _about(opened: "pq.ParquetFile") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((opened.schema_arrow.metadata or {})[b"vit_engine"])
    return found
