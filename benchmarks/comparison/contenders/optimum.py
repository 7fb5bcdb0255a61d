"""Optimum: its own export, through its `ORTModelForImageClassification`."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.folders import whole
from comparison.job import AbsentError, Job

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def convert(job: Job) -> None:
    """Export the checkpoint the way Optimum's documentation does."""
    folder = _folder(job)
    if folder.exists():
        return
    from optimum.onnxruntime import ORTModelForImageClassification

    model = ORTModelForImageClassification.from_pretrained(job.model, export=True)
    with whole(folder) as partial:
        model.save_pretrained(partial)


def load(job: Job) -> "Optimum":
    """Open the exported model."""
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTModelForImageClassification

    provider = PROVIDERS[job.device]
    if provider not in onnxruntime.get_available_providers():
        raise AbsentError(f"the ONNX Runtime of the peers' environment has no {provider}")
    torch.set_num_threads(job.threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    model = ORTModelForImageClassification.from_pretrained(
        _folder(job), provider=provider, session_options=options
    )
    if model.model.get_providers()[0] != provider:
        raise AbsentError(
            f"asked for {provider}, ONNX Runtime opened {model.model.get_providers()}"
        )
    return Optimum(job, model)


class Optimum:
    """The drop-in class that takes and returns torch tensors."""

    takes = "float32"

    def __init__(self, job: Job, model: Any) -> None:
        self.job, self.model = job, model

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits."""
        import torch

        pixels = torch.from_numpy(batch).to(self.job.device)
        result: NDArray[np.float32] = self.model(pixel_values=pixels).logits.cpu().numpy()
        return result

    def describe(self) -> dict[str, Any]:
        """Say what runs."""
        return {
            "precision": "fp32",
            "compute": "fp32",
            "runtime": f"optimum-onnx {version('optimum-onnx')}, "
            f"onnxruntime {version('onnxruntime')}",
            "files": [str(_folder(self.job) / "model.onnx")],
        }


def _folder(job: Job) -> Path:
    return job.artefact(version("optimum-onnx"), version("onnxruntime"))
