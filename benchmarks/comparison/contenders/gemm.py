"""A large matrix product in PyTorch: the ceiling that its precision has on this machine."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.job import AbsentError, Job

SIDE = {"cpu": 4096, "cuda": 8192}
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}


PATIENCE = 20.0
"""Seconds for one product. A type that the processor has no instructions for takes minutes."""


def load(job: Job) -> "Gemm":
    """Fill two square matrices, unless smaller ones show that their product would take ages."""
    import torch

    if job.device == "cuda" and not torch.cuda.is_available():
        raise AbsentError("PyTorch sees no CUDA device")
    torch.set_num_threads(job.threads)
    side, precision = SIDE[job.device], job.options["precision"]
    small = _gemm(side // 16, precision, job.device)
    small.multiply_once()
    started = time.perf_counter()
    small.multiply_once()
    seconds = (time.perf_counter() - started) * 16**3
    if seconds > PATIENCE:
        raise AbsentError(
            f"PyTorch has no fast {precision} product here: it would take {seconds:.0f} s"
        )
    return _gemm(side, precision, job.device)


def _gemm(side: int, precision: str, device: str) -> "Gemm":
    import torch

    generator = torch.Generator().manual_seed(0)
    if precision == "int8":
        pair = torch.randint(-127, 128, (2, side, side), dtype=torch.int8, generator=generator)
    else:
        pair = torch.randn(2, side, side, generator=generator).to(getattr(torch, DTYPES[precision]))
    return Gemm(torch._int_mm if precision == "int8" else torch.mm, *pair.to(device))


class Gemm:
    """`run` multiplies once, whatever batch it is given, and returns a row for each image."""

    takes = "float32"

    def __init__(self, multiply: Any, a: Any, b: Any) -> None:
        self.multiply, self.a, self.b = multiply, a, b

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Multiply."""
        return np.full((len(batch), 1), self.multiply_once(), np.float32)

    def multiply_once(self) -> float:
        """Return one element of the product: reading it back waits for the device."""
        return float(self.multiply(self.a, self.b)[-1, -1])

    def describe(self) -> dict[str, Any]:
        """Say what runs, with the operations of one product."""
        import torch

        return {"runtime": f"torch {torch.__version__}", "operations": 2 * len(self.a) ** 3}
