"""Optimum: its own export, and its own int8, through its `ORTModelForImageClassification`."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.job import AbsentError, Job
from comparison.whole_folder import whole

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def convert(job: Job) -> None:
    """Export the checkpoint, and quantise it dynamically, the way Optimum's documentation does."""
    folder = _folder(job)
    if folder.exists():
        return
    from optimum.onnxruntime import ORTModelForImageClassification, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    model = ORTModelForImageClassification.from_pretrained(job.model, export=True)
    with whole(folder) as partial:
        if job.options.get("int8"):
            preset = getattr(AutoQuantizationConfig, _preset(job))
            ORTQuantizer.from_pretrained(model).quantize(
                save_dir=partial,
                quantization_config=preset(is_static=False, per_channel=True),
                file_suffix=None,
            )
        else:
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
    found = model.model.get_providers()
    if found[0] != provider:
        raise AbsentError(f"asked for {provider}, ONNX Runtime opened {found}")
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
        packages = ("optimum-onnx", "onnxruntime")
        about: dict[str, Any] = {
            "compute": "int8" if self.job.options.get("int8") else "fp32",
            "runtime": ", ".join(f"{name} {version(name)}" for name in packages),
            "files": [str(_folder(self.job) / "model.onnx")],
        }
        if about["compute"] == "int8":
            about["note"] = f"dynamic, its preset {_preset(self.job)}, a scale for each channel"
        return about


def _preset(job: Job) -> str:
    return "avx512_vnni" if job.vnni else "avx2"


def _folder(job: Job) -> Path:
    return job.artefact(version("optimum-onnx"), version("onnxruntime"))
