"""What a contender is told, what it must know, and how it says that it cannot run here."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
"""What a model gives: logits (n, labels), or vectors (n, size) of length 1."""

OVERLAPPED = "times are those of a turn of overlapping batches, divided by their number"
"""The note of who is timed so."""


class AbsentError(Exception):
    """The contender cannot run on this machine; the text is its row's reason."""


@dataclass(frozen=True)
class Job:
    """One contender's task: the same model folder, threads and inputs as every other's."""

    contender: str
    module: str  # its importable name
    options: dict[str, Any]
    model: str  # a Hugging Face checkpoint folder; "" for a contender that needs none
    cache: str  # converted models live here
    threads: int
    device: str  # "cpu" or "cuda"
    max_batch: int
    uint8: str  # .npy of images, (n, H, W, 3)
    float32: str  # .npy of the same images, normalised, (n, 3, H, W)
    weights: tuple[str, ...] = ()  # the checkpoint's files that hold them
    calibration: str = ""  # .npy like float32, for contenders that quantise by example
    calibration_files: str = ""  # the folder of the same images, where they are image files
    pooling: str = ""  # how vectors are made of tokens; "": the model gives logits
    vnni: bool = False  # whether the CPU has fast int8 products

    def calibration_stamp(self) -> str:
        """Return what names the calibration images in `artefact`'s key."""
        return hashlib.sha256(Path(self.calibration).read_bytes()).hexdigest()

    def artefact(self, *versions: str, shared: str | None = None) -> Path:
        """Return the folder for what this contender (or all `shared` ones) makes of the model.

        Keyed by the model's folder and weights and the versions given, so that another model or
        another library never finds it.
        """
        stats = [(p, Path(p).stat().st_size, Path(p).stat().st_mtime_ns) for p in self.weights]
        told = repr(
            [str(Path(self.model).resolve()), stats, *filter(None, (self.pooling,)), *versions]
        )
        key = hashlib.sha256(told.encode()).hexdigest()[:12]
        return Path(self.cache, f"{shared or self.contender}-{key}")


@dataclass(frozen=True)
class Contender:
    """What a contender's module returns from `load(job)`: a model that answers images.

    `run` takes a batch of what `takes` says and returns `Logits` in host memory, which the next
    run may write over. `about` holds compute (the precision of the ceiling to hold it to),
    runtime, files, and perhaps a note. A module that needs the model in another form also has
    `folder(job)`, where that is kept, and `convert(job, folder)`, which fills such a folder in a
    process of its own.
    """

    takes: Literal["uint8", "float32"]
    run: Callable[[Any], Logits]
    about: dict[str, Any]
    label: Callable[[list[str], int], Sequence[Any]] | None = None
    """From image files, in batches of a size, to class indices, or vectors."""
    decode: Callable[[list[str], int], None] | None = None
    """The part of `label` before the model."""
    run_pipelined: Callable[[Sequence[Any]], list[Logits]] | None = None
    """Runs batches that overlap; it is timed in the place of `run`."""


def installed(*packages: str) -> str:
    """Return "torch 2.13.0, transformers 5.23.0" of packages."""
    return ", ".join(f"{name} {version(name)}" for name in packages)


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the name of `folder` at the end, or goes.

    Where another process was first, its folder stays: contenders that share a conversion may be
    loaded side by side.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as name:
        partial = Path(name, "made")
        partial.mkdir()
        yield partial
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
