"""PyTorch through transformers: eager or compiled, fp32 or lower, with its default attention.

Options: `precision`; `compile`, a mode of torch.compile, and a `backend` of it; `torchao`, int8
weights by channel and activations by token as they come; `pipeline`, transformers' own from files
to labels.
"""

import importlib
import os
from pathlib import Path
from typing import Any

from comparison.job import AbsentError, Contender, Job, Logits, installed

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def load(job: Job) -> Contender:
    """Load the checkpoint; compiling is part of it, as it is of every process that compiles."""
    precision, mode, backend = (job.options.get(k) for k in ("precision", "compile", "backend"))
    if mode:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(job.cache, "inductor"))
        if job.device == "cpu":
            os.environ["TORCHINDUCTOR_FREEZING"] = "1"
    import torch
    import transformers

    libraries = ["torch", "transformers"]
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(job.threads)
    if job.device == "cuda":
        if not torch.cuda.is_available():
            raise AbsentError("PyTorch sees no CUDA device")
        # On by default, and for convolutions alone: fp32 is what all others are held to.
        torch.backends.cudnn.allow_tf32 = False
    dtype = getattr(torch, DTYPES[str(precision)])
    eager = transformers.AutoModelForImageClassification.from_pretrained(
        job.model, local_files_only=True, dtype=dtype
    )
    model: Any = eager.eval().to(job.device)
    if job.options.get("torchao"):
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model, Int8DynamicActivationInt8WeightConfig())
        libraries.append("torchao")
    if backend:
        importlib.import_module(backend)  # which registers it
        libraries.append(backend)
    if mode:
        torch._dynamo.config.recompile_limit = 64  # one graph for each batch size
        mode = None if mode == "default" else mode
        model = torch.compile(model, backend=backend or "inductor", dynamic=False, mode=mode)

    def processor() -> Any:
        """Return the checkpoint's preprocessing; by PIL: all decode and resize with one Pillow."""
        given = {"local_files_only": True, "backend": "pil"}
        return transformers.AutoImageProcessor.from_pretrained(job.model, **given)

    pipe: Any = None
    if job.options.get("pipeline"):
        how = {"image_processor": processor(), "device": job.device}
        pipe = transformers.pipeline("image-classification", eager, **how)

    def run(batch: Any) -> Logits:
        """Return the logits; the copies to the device and back are in it."""
        with torch.inference_mode():
            logits = model(pixel_values=torch.from_numpy(batch).to(job.device, dtype)).logits
            found: Logits = logits.to("cpu", torch.float32).numpy()
        return found

    def loader(paths: list[str], batch: int) -> Any:
        """Return what a usual PyTorch script reads its images with."""
        files: Any = _Files(paths, processor())
        return torch.utils.data.DataLoader(files, batch_size=batch, num_workers=job.threads)

    def label(paths: list[str], batch: int) -> list[int]:
        if pipe:
            found = pipe(paths, top_k=1, batch_size=batch, num_workers=job.threads)
            return [eager.config.label2id[best[0]["label"]] for best in found]
        return [int(i) for pixels in loader(paths, batch) for i in run(pixels.numpy()).argmax(1)]

    def decode(paths: list[str], batch: int) -> None:
        for _ in loader(paths, batch):
            pass

    attention = f"{eager.config._attn_implementation} attention"
    about: dict[str, Any] = {
        "compute": "int8" if job.options.get("torchao") else precision,
        "runtime": f"{installed(*libraries)}, {attention}",
        "files": list(job.weights),
    }
    if job.options.get("compile"):
        frozen = ", TORCHINDUCTOR_FREEZING=1" if job.device == "cpu" else ""
        about["note"] = f"one graph for each batch size{frozen}"
    return Contender("float32", run, about, label, None if pipe else decode)


class _Files:
    """The data set of a usual PyTorch script."""

    def __init__(self, paths: list[str], processor: Any) -> None:
        self.paths, self.processor = paths, processor

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Any:
        from PIL import Image

        with Image.open(self.paths[i]) as image:
            return self.processor(images=image.convert("RGB"), return_tensors="pt").pixel_values[0]
