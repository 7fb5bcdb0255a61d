"""PyTorch through transformers: eager or compiled, fp32 or lower, with its default attention."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comparison.job import AbsentError, Contender, Job, Logits, versions_of

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def load(job: Job) -> Contender:
    """Load the checkpoint; compiling is part of it, as it is of every process that compiles."""
    return contender(job, job.options["precision"], job.options.get("compile"))


def contender(
    job: Job,
    precision: str,
    mode: str | None,
    *,
    backend: str = "inductor",
    prepare: Callable[[Any], None] = lambda _model: None,
) -> Contender:
    """Return the model, compiled where `mode` says how; `prepare` changes it before."""
    if mode:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(job.cache, "inductor"))
        if job.device == "cpu":
            os.environ["TORCHINDUCTOR_FREEZING"] = "1"
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(job.threads)
    if job.device == "cuda":
        if not torch.cuda.is_available():
            raise AbsentError("PyTorch sees no CUDA device")
        # On by default, and for convolutions alone: fp32 is what all others are held to.
        torch.backends.cudnn.allow_tf32 = False
    dtype = getattr(torch, DTYPES[precision])
    eager = transformers.AutoModelForImageClassification.from_pretrained(
        job.model, local_files_only=True, dtype=dtype
    )
    model: Any = eager.eval().to(job.device)
    prepare(model)
    if mode:
        torch._dynamo.config.recompile_limit = 64  # one graph for each batch size
        model = torch.compile(
            model, backend=backend, dynamic=False, mode=None if mode == "default" else mode
        )

    def run(batch: Any) -> Logits:
        """Return the logits; the copies to the device and back are in it."""
        with torch.inference_mode():
            logits = model(pixel_values=torch.from_numpy(batch).to(job.device, dtype)).logits
            found: Logits = logits.to("cpu", torch.float32).numpy()
        return found

    def loader(paths: list[str], batch: int) -> Any:
        # the PIL one: every contender decodes and resizes with the same Pillow
        processor = transformers.AutoImageProcessor.from_pretrained(
            job.model, local_files_only=True, backend="pil"
        )
        files: Any = _Files(paths, processor)
        return torch.utils.data.DataLoader(files, batch_size=batch, num_workers=job.threads)

    def label(paths: list[str], batch: int) -> list[int]:
        return [
            i for pixels in loader(paths, batch) for i in run(pixels.numpy()).argmax(1).tolist()
        ]

    def decode(paths: list[str], batch: int) -> None:
        for _ in loader(paths, batch):
            pass

    about: dict[str, Any] = {
        "compute": precision,
        "runtime": f"{versions_of(torch, transformers)}, "
        f"{eager.config._attn_implementation} attention",
        "files": list(job.weights),
    }
    if mode:
        frozen = ", TORCHINDUCTOR_FREEZING=1" if job.device == "cpu" else ""
        about["note"] = f"one graph for each batch size{frozen}"
    return Contender("float32", run, about, label, decode)


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
