"""A large matrix product in PyTorch: the ceiling that its precision has on this machine."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.job import AbsentError, Job

SIDE = {"cpu": 4096, "cuda": 8192}
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}


def load(job: Job) -> "Gemm":
    """Fill two square matrices."""
    import torch

    if job.device == "cuda" and not torch.cuda.is_available():
        raise AbsentError("PyTorch sees no CUDA device")
    torch.set_num_threads(job.threads)
    side, precision = SIDE[job.device], job.options["precision"]
    generator = torch.Generator().manual_seed(0)
    if precision == "int8":
        pair = torch.randint(-127, 128, (2, side, side), dtype=torch.int8, generator=generator)
    else:
        pair = torch.randn(2, side, side, generator=generator).to(getattr(torch, DTYPES[precision]))
    return Gemm(torch._int_mm if precision == "int8" else torch.mm, *pair.to(job.device))


class Gemm:
    """`run` multiplies once, whatever batch it is given, and returns a row for each image."""

    takes = "float32"

    def __init__(self, multiply: Any, a: Any, b: Any) -> None:
        self.multiply, self.a, self.b = multiply, a, b

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Multiply; reading an element back waits for the device."""
        product = self.multiply(self.a, self.b)
        return np.full((len(batch), 1), float(product[-1, -1]), np.float32)

    def describe(self) -> dict[str, Any]:
        """Say what runs, with the operations of one product."""
        import torch

        return {"runtime": f"torch {torch.__version__}", "operations": 2 * len(self.a) ** 3}
