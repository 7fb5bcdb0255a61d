"""vit-engine: the artefact that vit-export writes, through the engine that vit-infer uses."""

import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.job import AbsentError, Job, versions_of

EXPORTER = Path(__file__).parents[3] / "export/vit_export"


def convert(job: Job) -> None:
    """Run vit-export, its check against eager PyTorch included."""
    path = artefact_path(job)
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
    try:
        engine = Engine.open(
            artefact_path(job),
            provider=provider,
            threads=job.threads,
            # on the CPU the default stands: larger batches are run in parts of it
            max_batch=None if provider == "cpu" else job.max_batch,
            cuda_graphs=job.options.get("cuda_graphs", True),
        )
    except (ProviderError, UsageError) as e:
        raise AbsentError(str(e)) from e
    return OursAhead(job, engine) if job.options.get("ahead") else Ours(job, engine)


class Ours:
    """The engine; it normalises in the graph, so its input is uint8."""

    takes = "uint8"

    def __init__(self, job: Job, engine: Any) -> None:
        from vit_engine.images.decoder_process import Task

        self.job, self.engine = job, engine
        self.task = Task(engine.contract.preprocessing, fast=job.options.get("fast", False))

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits."""
        result: NDArray[np.float32] = self.engine.run(batch)
        return result

    def label(self, paths: list[str], batch: int) -> list[int | None]:
        """Label files as vit-infer does: decoded in processes of their own, ahead of the engine."""
        from vit_engine.classifier import Classifier
        from vit_engine.sources.find import items_from_sources

        items = items_from_sources(paths)
        stream = Classifier(self.engine).stream(items, batch=batch, task=self.task)
        return [p.index for labelled in stream for p in labelled.predictions]

    def decode(self, paths: list[str], batch: int) -> None:
        """Fill batches as `label` does, with no engine behind them."""
        from vit_engine.images.decode_pool import DecodePool, slots_for
        from vit_engine.images.decoder_process import DecoderProcess, SharedPixels
        from vit_engine.machine.processor import usable_cores
        from vit_engine.sources.find import items_from_sources

        given, workers = self.engine.contract.input, usable_cores()
        with SharedPixels(slots_for(batch, workers), given.height, given.width) as shared:
            pool: DecodePool[Any] = DecodePool(
                shared.array,
                lambda: DecoderProcess(shared, self.task),
                batch=batch,
                workers=workers,
            )
            with pool:
                for filled in pool.batches(items_from_sources(paths)):
                    pool.free(filled)

    def describe(self) -> dict[str, Any]:
        """Say what runs."""
        import onnxruntime

        provider = self.engine.provider
        precision = self.engine.contract.identity.precision
        runtime = f"vit-engine {version('vit-engine')}, {versions_of(onnxruntime)}, {provider}"
        about: dict[str, Any] = {
            # ONNX Runtime's CPU kernels multiply fp16 weights in fp32
            "compute": "fp32" if (provider, precision) == ("cpu", "fp16") else precision,
            "runtime": runtime,
            "files": [str(artefact_path(self.job))],
        }
        if precision == "int8":
            theirs = self.job.calibration_files
            images = "part of the comparison's own" if theirs else "drawn"
            about["note"] = f"calibrated on {images} images"
        return about


class OursAhead(Ours):
    """The engine with copies of one batch under the compute of another, as vit-infer uses it."""

    def run_ahead(self, batches: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Return the logits of every batch, one more submitted than fit on the device."""
        waiting: deque[Any] = deque()
        answers: list[NDArray[np.float32]] = []
        for batch in batches:
            if len(waiting) > self.engine.in_flight:
                answers.append(waiting.popleft().result())
            waiting.append(self.engine.submit(batch))
        return [*answers, *(answer.result() for answer in waiting)]

    def describe(self) -> dict[str, Any]:
        """Say what runs, and that its times are no latencies."""
        note = "times are those of a turn of overlapping batches, divided by their number"
        return {**super().describe(), "overlaps": True, "note": note}


def artefact_path(job: Job) -> Path:
    """Return where the artefact of the job's precision is, or will be."""
    # an exporter under development converts again after every change
    precision, sources = job.options["precision"], sorted(EXPORTER.rglob("*.py"))
    images = job.calibration_stamp() if precision == "int8" else ""
    stamps = [str(p.stat().st_mtime_ns) for p in sources]
    folder = job.artefact(version("vit-engine"), images, *stamps, shared=f"ours-{precision}")
    return folder / "vit.onnx"
