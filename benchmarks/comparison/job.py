"""What a contender is told, what it must know, and how it says that it cannot run here."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Batch = NDArray[np.uint8] | NDArray[np.float32]


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
    vnni: bool = False  # whether the CPU has fast int8 products

    def as_dict(self) -> dict[str, Any]:
        """Return what `Job(**...)` takes back."""
        return asdict(self)

    def calibration_stamp(self) -> str:
        """Return what names the calibration images in `artefact`'s key."""
        return hashlib.sha256(Path(self.calibration).read_bytes()).hexdigest()

    def artefact(self, *versions: str, shared: str | None = None) -> Path:
        """Return the folder for what this contender (or all `shared` ones) makes of the model.

        Keyed by the model's folder and weights and the versions given, so that another model or
        another library never finds it.
        """
        stats = [(p, Path(p).stat().st_size, Path(p).stat().st_mtime_ns) for p in self.weights]
        told = [str(Path(self.model).resolve()), stats, *versions]
        key = hashlib.sha256(repr(told).encode()).hexdigest()[:12]
        return Path(self.cache, f"{shared or self.contender}-{key}")


class Contender(Protocol):
    """What a contender's module returns from `load(job)`.

    Some have more: `label(paths, batch)` for a path from image files to class indices,
    `decode(paths, batch)` for the part of it before the model, and `run_ahead(batches)` where
    several batches overlap; then it is timed in the place of `run`. A module may have
    `convert(job)`, which runs in a process of its own before.
    """

    takes: str  # "uint8" or "float32": which of the job's inputs `run` wants

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits in host memory, (n, labels) float32: synchronised by that."""

    def describe(self) -> dict[str, Any]:
        """Return compute (the precision of the ceiling to hold it to), runtime, files, note."""


def versions_of(*modules: Any) -> str:
    """Return "torch 2.13.0, transformers 5.23.0" of the modules."""
    return ", ".join(f"{module.__name__} {module.__version__}" for module in modules)
