"""PyTorch through transformers: eager or compiled, fp32 or lower, with its default attention.

Options: `precision`; `compile`, a mode of torch.compile, and a `backend` of it; `torchao`, int8
weights by channel and activations by token as they come; `pipeline`, transformers' own from files
to labels or vectors. Vectors are the library's own, brought to length 1.
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
    given = {"local_files_only": True}
    kind = transformers.AutoModelForImageClassification
    if job.pooling:
        config = transformers.AutoConfig.from_pretrained(job.model, **given)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0])
    eager = kind.from_pretrained(job.model, dtype=dtype, **given).eval().to(job.device)
    model: Any = _vectors(eager, job.pooling) if job.pooling else eager
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
        return transformers.AutoImageProcessor.from_pretrained(job.model, backend="pil", **given)

    pipe: Any = None
    if job.options.get("pipeline"):
        how = {"image_processor": processor(), "device": job.device}
        if not job.pooling:
            pipe = transformers.pipeline("image-classification", eager, **how)
        elif job.pooling in ("cls", "pooler") and not hasattr(eager.config, "projection_dim"):
            backbone = eager.base_model
            pipe = transformers.pipeline("image-feature-extraction", backbone, **how)
        else:
            raise AbsentError("its image-feature-extraction has no such vectors")

    def run(batch: Any) -> Logits:
        """Return logits or vectors; the copies to the device and back are in it."""
        with torch.inference_mode():
            answer = model(pixel_values=torch.from_numpy(batch).to(job.device, dtype))
            answer = answer if job.pooling else answer.logits
            found: Logits = answer.to("cpu", torch.float32).numpy()
        return found

    def loader(paths: list[str], batch: int) -> Any:
        """Return what a usual PyTorch script reads its images with."""
        files: Any = _Files(paths, processor())
        return torch.utils.data.DataLoader(files, batch_size=batch, num_workers=job.threads)

    def label(paths: list[str], batch: int) -> list[Any]:
        if pipe and job.pooling:
            how = {"pool": job.pooling == "pooler", "return_tensors": True}
            tokens = pipe(paths, batch_size=batch, num_workers=job.threads, **how)
            return [one[0].reshape(-1, one.shape[-1])[0].numpy() for one in tokens]
        if pipe:
            found = pipe(paths, top_k=1, batch_size=batch, num_workers=job.threads)
            return [eager.config.label2id[best[0]["label"]] for best in found]
        rows = [row for pixels in loader(paths, batch) for row in run(pixels.numpy()).copy()]
        return rows if job.pooling else [int(row.argmax()) for row in rows]

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


def _vectors(model: Any, pooling: Any) -> Any:
    """Return what makes unit vectors of pixels, as the reference of vit-export does."""
    import torch

    from vit_export.packages.transformers import vectors

    def of(pixel_values: Any) -> Any:
        return torch.nn.functional.normalize(vectors(model, pooling, pixel_values, {}), dim=-1)

    return of


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
