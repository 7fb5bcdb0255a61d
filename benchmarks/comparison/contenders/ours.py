"""vit-engine: the artefact that vit-export writes, through the engine that vit-infer uses."""

import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comparison.job import OVERLAPPED, AbsentError, Contender, Job, Logits, installed

if TYPE_CHECKING:
    from vit_engine.engine import Engine

EXPORTER = Path(__file__).parents[3] / "export/vit_export"
NAME = "vit.onnx"


def folder(job: Job) -> Path:
    """Return where the artefact of the job's precision is kept."""
    # an exporter under development converts again after every change
    precision, sources = job.options["precision"], sorted(EXPORTER.rglob("*.py"))
    images = job.calibration_stamp() if precision == "int8" else ""
    stamps = [str(p.stat().st_mtime_ns) for p in sources]
    return job.artefact(version("vit-engine"), images, *stamps, shared=f"ours-{precision}")


def convert(job: Job, folder: Path) -> None:
    """Run vit-export, its check against eager PyTorch included."""
    line = ["-m", "vit_export.cli", job.model, f"--{job.options['precision']}"]
    if job.options["precision"] == "int8":
        line += ["--min-agreement", "0"]  # the comparison tells the agreement, however low
        line += ["--calibrate", job.calibration_files] if job.calibration_files else []
    line += ["--embed"] if job.pooling else []
    line += ["-o", str(folder / NAME)]
    done = subprocess.run([sys.executable, *line], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1])


def load(job: Job) -> Contender:
    """Open the artefact; the engine normalises in the graph, so its input is uint8."""
    from vit_engine.engine import Engine
    from vit_engine.errors import ProviderError, UsageError

    provider = job.options.get("provider", "cpu")
    try:
        engine = Engine.open(
            folder(job) / NAME,
            provider=provider,
            threads=job.threads,
            # on the CPU the default stands: larger batches are run in parts of it
            max_batch=job.max_batch if job.device == "cuda" else None,
            compute=job.options.get("compute"),
            cuda_graphs=job.options.get("cuda_graphs", True),
            optimize_graph=job.options.get("optimize_graph", True),
        )
    except (ProviderError, UsageError) as e:
        raise AbsentError(str(e)) from e
    return contender(job, engine)


def contender(job: Job, engine: "Engine") -> Contender:
    """Return what an open engine does."""
    from vit_engine.classifier import Classifier
    from vit_engine.embedder import Embedder
    from vit_engine.images.decode_pool import DecodePool, slots_for
    from vit_engine.images.decoder_process import DecodeOptions, DecoderProcess, SharedPixels
    from vit_engine.machine.processor import usable_cores
    from vit_engine.sources.find import samples_from_sources

    fast = job.options.get("fast", False)
    decode_options = DecodeOptions(engine.contract.preprocessing, fast=fast)

    def label(paths: list[str], batch: int) -> list[Any]:
        """Label files as vit-infer does: decoded in processes of their own, ahead of the engine."""
        samples = samples_from_sources(paths)
        model = Embedder(engine) if job.pooling else Classifier(engine)
        stream = model.stream(samples, batch=batch, decode_options=decode_options)
        found = (p for labelled in stream for p in labelled.predictions)
        return [p.vector if job.pooling else p.index for p in found]

    def decode(paths: list[str], batch: int) -> None:
        """Fill batches as `label` does, with no engine behind them."""
        given, workers = engine.contract.input, usable_cores()
        with SharedPixels(slots_for(batch, workers), given.height, given.width) as shared:
            start = partial(DecoderProcess, shared, decode_options)
            with DecodePool(shared.array, start, batch=batch, workers=workers) as pool:
                for filled in pool.batches(samples_from_sources(paths)):
                    pool.free(filled)

    def run_pipelined(batches: Sequence[Any]) -> list[Logits]:
        """Copy one batch under the compute of another, as vit-infer does; one more waits."""
        waiting: deque[Any] = deque()
        answers: list[Logits] = []
        for batch in batches:
            if len(waiting) > engine.in_flight:
                answers.append(waiting.popleft().result())
            waiting.append(engine.submit(batch))
        return [*answers, *(answer.result() for answer in waiting)]

    precision: str = engine.contract.identity.precision
    compute = precision
    if precision != "int8" and engine.provider in ("cpu", "openvino"):
        # both multiply fp16 weights in fp32, or in what OpenVINO is asked for
        compute = "bf16" if job.options.get("compute") == "bf16" else "fp32"
    library = "openvino" if engine.provider == "openvino" else "onnxruntime"
    about: dict[str, Any] = {
        "compute": compute,
        "runtime": f"{installed('vit-engine', library)}, {engine.provider}",
        "files": [str(folder(job) / NAME)],
    }
    if precision == "int8":
        images = "part of the comparison's own" if job.calibration_files else "drawn"
        about["note"] = f"calibrated on {images} images"
    if not job.options.get("pipelined"):
        return Contender("uint8", engine.run, about, label, decode)
    about |= {"pipelined": True, "note": OVERLAPPED}
    return Contender("uint8", engine.run, about, run_pipelined=run_pipelined)
