"""vit-engine: the artefact that vit-export writes, through the engine that vit-infer uses."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.job import AbsentError, Job

EXPORTER = Path(__file__).parents[3] / "export/vit_export"


def convert(job: Job) -> None:
    """Run vit-export, its check against eager PyTorch included."""
    path = _path(job)
    if path.exists():
        return
    flags = [f"--{job.options['precision']}"]
    if job.options["precision"] == "int8":
        flags += ["--min-agreement", "0"]  # the comparison tells the agreement, however low
        flags += ["--calibrate", job.calibration_files] if job.calibration_files else []
    done = subprocess.run(
        [sys.executable, "-m", "vit_export.cli", job.model, *flags, "-o", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        raise RuntimeError(words[-1])


def load(job: Job) -> "Ours":
    """Open the artefact."""
    from vit_engine.engine import Engine
    from vit_engine.errors import ProviderError, UsageError

    provider = job.options.get("provider", "cpu")
    # on the CPU the default stands: larger batches are run in parts of it
    largest = None if provider == "cpu" else job.max_batch
    graphs = job.options.get("cuda_graphs", True)
    try:
        engine = Engine.open(
            _path(job),
            provider=provider,
            threads=job.threads,
            max_batch=largest,
            cuda_graphs=graphs,
        )
    except (ProviderError, UsageError) as e:
        raise AbsentError(str(e)) from e
    return Ours(job, engine)


class Ours:
    """The engine; it normalises in the graph, so its input is uint8."""

    takes = "uint8"

    def __init__(self, job: Job, engine: Any) -> None:
        self.job, self.engine = job, engine

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits."""
        result: NDArray[np.float32] = self.engine.run(batch)
        return result

    def label(self, paths: list[str], batch: int) -> list[int | None]:
        """Label files as vit-infer does: decoded in processes of their own, ahead of the engine."""
        from vit_engine.classifier import Classifier
        from vit_engine.sources.find import items_from_sources

        stream = Classifier(self.engine).stream(items_from_sources(paths), batch=batch)
        return [p.index for labelled in stream for p in labelled.predictions]

    def describe(self) -> dict[str, Any]:
        """Say what runs."""
        import onnxruntime

        provider = self.engine.provider
        precision = self.engine.contract.identity.precision
        # ONNX Runtime's CPU kernels multiply fp16 weights in fp32
        compute = "fp32" if (provider, precision) == ("cpu", "fp16") else precision
        about: dict[str, Any] = {
            "precision": precision,
            "compute": compute,
            "runtime": f"vit-engine {version('vit-engine')}, "
            f"onnxruntime {onnxruntime.__version__}, {provider}",
            "files": [str(_path(self.job))],
        }
        if precision == "int8":
            about["note"] = (
                "calibrated on part of the comparison's own images"
                if self.job.calibration_files
                else "calibrated on drawn images"
            )
        return about


def _path(job: Job) -> Path:
    # an exporter under development converts again after every change
    images = job.calibration_stamp() if job.options["precision"] == "int8" else ""
    sources = sorted(EXPORTER.glob("*.py"))
    stamp = [str(p.stat().st_mtime_ns) for p in sources]
    return job.artefact(version("vit-engine"), images, *stamp) / "vit.onnx"
