"""OpenVINO: the checkpoint converted from PyTorch, in f32, bf16, or int8 by NNCF."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from comparison.job import OVERLAPPED, AbsentError, Contender, Job, Logits, installed

CALIBRATION = 128  # images at most


def folder(job: Job) -> Path:
    """Return where the converted model is kept: one for f32 and bf16, which a hint tells apart."""
    if not job.options.get("quantize"):
        return job.artefact(installed("openvino"), shared="openvino-f32")
    libraries, images = installed("openvino", "nncf"), job.calibration_stamp()
    return job.artefact(libraries, images, shared="openvino-int8")


def convert(job: Job, folder: Path) -> None:
    """Write OpenVINO's own format; int8 is quantised with NNCF's preset for transformers."""
    import openvino
    import torch
    from transformers import AutoModelForImageClassification

    class Logits(torch.nn.Module):
        """The model with one output."""

        def __init__(self) -> None:
            super().__init__()
            given = {"local_files_only": True}
            self.model = AutoModelForImageClassification.from_pretrained(job.model, **given)

        def forward(self, pixel_values: Any) -> Any:
            return self.model(pixel_values).logits

    torch.set_num_threads(job.threads)
    size = np.load(job.float32, mmap_mode="r").shape[-1]
    converted = openvino.convert_model(Logits().eval(), example_input=torch.zeros(2, 3, size, size))
    converted.reshape([-1, 3, size, size])
    if job.options.get("quantize"):
        import nncf

        images = np.load(job.calibration, mmap_mode="r")[:CALIBRATION]
        data = nncf.Dataset([np.ascontiguousarray(image[None]) for image in images])
        how = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": len(images)}
        converted = nncf.quantize(converted, data, **how)
    openvino.save_model(converted, folder / "model.xml", compress_to_fp16=False)


def load(job: Job) -> Contender:
    """Compile for the CPU: one request at a time on all threads, or as many as OpenVINO picks."""
    import openvino

    core = openvino.Core()
    if "CPU" not in core.available_devices:
        raise AbsentError(f"OpenVINO offers no CPU device here, only {core.available_devices}")
    hint, streams = job.options["hint"], job.options.get("streams")
    if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise AbsentError("OpenVINO offers no bf16 on this CPU")
    options = {"INFERENCE_NUM_THREADS": str(job.threads), "INFERENCE_PRECISION_HINT": hint}
    one_stream = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    options |= {"PERFORMANCE_HINT": "THROUGHPUT"} if streams else one_stream
    model = core.compile_model(folder(job) / "model.xml", "CPU", options)
    request = model.create_infer_request()

    def run(batch: Any) -> Logits:
        found: Logits = request.infer(batch, share_inputs=True)[0]
        return found

    about: dict[str, Any] = {
        "compute": "fp32" if hint == "f32" else hint,
        "runtime": installed("openvino"),
        "files": [str(folder(job) / f"model.{end}") for end in ("xml", "bin")],
    }
    if job.options.get("quantize"):
        about["compute"] = "int8"
        about["runtime"] = installed("openvino", "nncf")
        about["note"] = f"calibrated on up to {CALIBRATION} of the comparison's own images"
    if not streams:
        return Contender("float32", run, about)
    waiting = openvino.AsyncInferQueue(model)  # as many requests as its hint finds best
    note = f"throughput hint, {len(waiting)} requests in flight; {OVERLAPPED}"
    about |= {"pipelined": True, "note": note}

    def run_pipelined(batches: Sequence[Any]) -> list[Logits]:
        answers: list[Any] = [None] * len(batches)

        def keep(request: Any, i: int) -> None:
            answers[i] = np.array(request.get_output_tensor(0).data)

        waiting.set_callback(keep)
        for i, batch in enumerate(batches):
            waiting.start_async(batch, i, share_inputs=True)
        waiting.wait_all()
        return answers

    return Contender("float32", run, about, run_pipelined=run_pipelined)
