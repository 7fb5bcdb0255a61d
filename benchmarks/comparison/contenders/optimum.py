"""Optimum: its export, ONNX Runtime's graph optimiser and quantiser as it drives them, its model.

Options: `optimize`, a level of its own, or `quantize` to int8, "dynamic" or "static".
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from comparison.job import AbsentError, Contender, Job, Logits, installed

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CALIBRATION = 128  # images at most


def folder(job: Job) -> Path:
    """Return where the exported model is kept."""
    images = job.calibration_stamp() if job.options.get("quantize") == "static" else ""
    return job.artefact(installed("optimum-onnx", "onnxruntime"), images)


def convert(job: Job, folder: Path) -> None:
    """Export the checkpoint, and optimise or quantise it, the way Optimum's documentation does."""
    from onnxruntime.quantization import CalibrationMethod
    from optimum import onnxruntime as ort
    from optimum.onnxruntime import configuration

    if job.pooling and json.loads(Path(job.model, "config.json").read_text()).get("text_config"):
        raise AbsentError("Optimum exports both towers as one graph, which asks for a text as well")
    if job.pooling not in ("", "cls"):
        raise AbsentError(f"its class for features gives tokens alone, not pooled by {job.pooling}")
    model = getattr(ort, _kind(job)).from_pretrained(job.model, export=True)
    kind = job.options.get("quantize")
    if level := job.options.get("optimize"):
        config = configuration.AutoOptimizationConfig.with_optimization_level(level)
        try:
            ort.ORTOptimizer.from_pretrained(model).optimize(config, folder, file_suffix=None)
        except NotImplementedError as e:
            raise AbsentError(f"Optimum optimises no such model: {e}") from e
    elif kind:
        preset = getattr(configuration.AutoQuantizationConfig, _preset(job))
        config = preset(is_static=kind == "static", per_channel=True)
        quantizer, ranges = ort.ORTQuantizer.from_pretrained(model), None
        if kind == "static":
            images = np.load(job.calibration, mmap_mode="r")[:CALIBRATION]
            ranges = quantizer.fit(
                [{"pixel_values": np.ascontiguousarray(image)} for image in images],
                configuration.CalibrationConfig("", "", "", len(images), CalibrationMethod.MinMax),
                onnx_augmented_model_name=folder / "augmented.onnx",
                operators_to_quantize=config.operators_to_quantize,
            )
            (folder / "augmented.onnx").unlink()
        quantizer.quantize(config, folder, file_suffix=None, calibration_tensors_range=ranges)
    else:
        model.save_pretrained(folder)


def load(job: Job) -> Contender:
    """Open the exported model: the drop-in class that takes and returns torch tensors."""
    import onnxruntime
    import torch
    from optimum import onnxruntime as ort

    provider = PROVIDERS[job.device]
    if provider not in onnxruntime.get_available_providers():
        raise AbsentError(f"the ONNX Runtime of the peers' environment has no {provider}")
    torch.set_num_threads(job.threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    model = getattr(ort, _kind(job)).from_pretrained(
        folder(job), provider=provider, session_options=options
    )
    found = model.model.get_providers()
    if found[0] != provider:
        raise AbsentError(f"asked for {provider}, ONNX Runtime opened {found}")

    def run(batch: Any) -> Logits:
        answer = model(pixel_values=torch.from_numpy(batch).to(job.device))
        if job.pooling:
            answer = torch.nn.functional.normalize(answer.last_hidden_state[:, 0], dim=-1)
        else:
            answer = answer.logits
        found: Logits = answer.cpu().numpy()
        return found

    kind, level, note = job.options.get("quantize"), job.options.get("optimize"), ""
    if level:
        note = f"its optimiser's level {level}"
    elif kind:
        note = f"{kind}, its preset {_preset(job)}, a scale for each channel of weights"
    if kind == "static":
        note += f", least and largest values of up to {CALIBRATION} of the comparison's own images"
    about = {
        "compute": "int8" if kind else "fp32",
        "runtime": installed("optimum-onnx", "onnxruntime"),
        "files": [str(folder(job) / "model.onnx")],
    }
    return Contender("float32", run, about | ({"note": note} if note else {}))


def _kind(job: Job) -> str:
    return f"ORTModelFor{'FeatureExtraction' if job.pooling else 'ImageClassification'}"


def _preset(job: Job) -> str:
    return "avx512_vnni" if job.vnni else "avx2"
