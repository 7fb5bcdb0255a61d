"""What a contender is told, and the one way in which it says that it cannot run here."""

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
    module: str  # in comparison.contenders, or an importable name
    options: dict[str, Any]
    model: str  # a Hugging Face checkpoint folder; "" for a contender that needs none
    cache: str  # converted artefacts live here
    threads: int
    device: str  # "cpu" or "cuda"
    max_batch: int
    uint8: str  # .npy of images, (n, H, W, 3)
    float32: str  # .npy of the same images, normalised, (n, 3, H, W)
    weights: tuple[str, ...] = ()  # the checkpoint's files that hold them
    calibration: str = ""  # .npy like float32, for contenders that quantise by example
    calibration_files: str = ""  # the folder of the same images, where they are image files

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
    """The verbs that all contenders share. The constructor is the load; it takes a `Job`."""

    takes: str  # "uint8" or "float32": which of the job's inputs `run` wants

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits in host memory, (n, labels) float32: synchronised by that."""

    def describe(self) -> dict[str, Any]:
        """Return precision, compute (the ceiling to hold it to), runtime, versions, files."""
