"""PyTorch through transformers: eager or compiled, fp32 or lower, with its default attention."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.job import AbsentError, Job, versions_of

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def load(job: Job) -> "PyTorch":
    """Load the checkpoint; compiling is part of it, as it is of every process that compiles."""
    mode = job.options.get("compile")
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
    dtype = getattr(torch, DTYPES[job.options["precision"]])
    model = transformers.ViTForImageClassification.from_pretrained(
        job.model, local_files_only=True, dtype=dtype
    )
    model.eval().to(job.device)
    run: Any = model
    if mode:
        torch._dynamo.config.recompile_limit = 64  # one graph for each batch size
        run = torch.compile(model, dynamic=False, mode=None if mode == "default" else mode)
    return PyTorch(job, run, dtype, model.config._attn_implementation)


class PyTorch:
    """A model that takes normalised images on the host and returns logits there."""

    takes = "float32"

    def __init__(self, job: Job, model: Any, dtype: Any, attention: str) -> None:
        import torch

        self.torch, self.job, self.model = torch, job, model
        self.dtype, self.attention = dtype, attention

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits; the copies to the device and back are in it."""
        torch = self.torch
        with torch.inference_mode():
            pixels = torch.from_numpy(batch).to(self.job.device, self.dtype)
            logits = self.model(pixel_values=pixels).logits
            result: NDArray[np.float32] = logits.to("cpu", torch.float32).numpy()
        return result

    def label(self, paths: list[str], batch: int) -> NDArray[np.intp]:
        """Label files with a DataLoader whose workers decode and preprocess."""
        loader = self._loader(paths, batch)
        return np.concatenate([self.run(pixels.numpy()).argmax(1) for pixels in loader])

    def decode(self, paths: list[str], batch: int) -> None:
        """Take everything out of the DataLoader, with no model behind it."""
        for _ in self._loader(paths, batch):
            pass

    def _loader(self, paths: list[str], batch: int) -> Any:
        import transformers

        # the PIL one: every contender decodes and resizes with the same Pillow
        processor = transformers.AutoImageProcessor.from_pretrained(
            self.job.model, local_files_only=True, backend="pil"
        )
        files: Any = _Files(paths, processor)
        return self.torch.utils.data.DataLoader(
            files, batch_size=batch, num_workers=self.job.threads
        )

    def describe(self) -> dict[str, Any]:
        """Say what runs."""
        import transformers

        about: dict[str, Any] = {
            "compute": self.job.options["precision"],
            "runtime": f"{versions_of(self.torch, transformers)}, {self.attention} attention",
            "files": list(self.job.weights),
        }
        if self.job.options.get("compile"):
            frozen = ", TORCHINDUCTOR_FREEZING=1" if self.job.device == "cpu" else ""
            about["note"] = f"one graph for each batch size{frozen}"
        return about


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
