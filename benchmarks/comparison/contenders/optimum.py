"""Optimum: its own export, and its own int8, through its `ORTModelForImageClassification`."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from comparison.job import AbsentError, Contender, Job, Logits
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


def load(job: Job) -> Contender:
    """Open the exported model: the drop-in class that takes and returns torch tensors."""
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

    def run(batch: Any) -> Logits:
        logits = model(pixel_values=torch.from_numpy(batch).to(job.device)).logits
        found: Logits = logits.cpu().numpy()
        return found

    packages = ("optimum-onnx", "onnxruntime")
    about: dict[str, Any] = {
        "compute": "int8" if job.options.get("int8") else "fp32",
        "runtime": ", ".join(f"{name} {version(name)}" for name in packages),
        "files": [str(_folder(job) / "model.onnx")],
    }
    if about["compute"] == "int8":
        about["note"] = f"dynamic, its preset {_preset(job)}, a scale for each channel"
    return Contender("float32", run, about)


def _preset(job: Job) -> str:
    return "avx512_vnni" if job.vnni else "avx2"


def _folder(job: Job) -> Path:
    return job.artefact(version("optimum-onnx"), version("onnxruntime"))
