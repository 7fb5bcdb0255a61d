"""A large matrix product in PyTorch or ONNX Runtime: the ceiling of its precision on this machine.

Their CPU kernels differ, so that the better of the two counts.
"""

import timeit
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.contenders.pytorch import DTYPES
from comparison.job import AbsentError, Contender, Job, Logits, versions_of

SIDE = {"cpu": 4096, "cuda": 8192}

PATIENCE = 20.0
"""Seconds for one product. A type that the processor has no instructions for takes minutes."""

Multiply = Callable[[], float]
"""Multiplies once and returns one element of the product: reading it waits for the device."""


def load(job: Job) -> Contender:
    """Fill two square matrices, unless smaller ones show that their product would take ages.

    A run multiplies once, whatever batch it is given, and returns a row for each image.
    """
    _, precision, library = job.contender.split("-")
    make, side = {"torch": _in_torch, "ort": _in_onnxruntime}[library], SIDE[job.device]
    # no smaller: on a busy machine threads wait for each other
    small, _ = make(side // 4, precision, job)
    small()
    seconds = min(timeit.repeat(small, number=1, repeat=2)) * 4**3
    if seconds > PATIENCE:
        raise AbsentError(f"no fast {precision} product here: it would take {seconds:.0f} s")
    multiply, runtime = make(side, precision, job)

    def run(batch: Any) -> Logits:
        return np.full((len(batch), 1), multiply(), np.float32)

    return Contender("float32", run, {"runtime": runtime, "operations": 2 * side**3})


def _in_torch(side: int, precision: str, job: Job) -> tuple[Multiply, str]:
    import torch

    if job.device == "cuda" and not torch.cuda.is_available():
        raise AbsentError("PyTorch sees no CUDA device")
    torch.set_num_threads(job.threads)
    generator = torch.Generator().manual_seed(0)
    matmul: Any = torch.mm
    if precision == "int8":
        matmul = torch._int_mm
        pair = torch.randint(-127, 128, (2, side, side), dtype=torch.int8, generator=generator)
    else:
        pair = torch.randn(2, side, side, generator=generator).to(getattr(torch, DTYPES[precision]))
    a, b = pair.to(job.device)
    return lambda: float(matmul(a, b)[-1, -1]), versions_of(torch)


def _in_onnxruntime(side: int, precision: str, job: Job) -> tuple[Multiply, str]:
    """A graph of one product, its right side constant as weights are."""
    import onnx
    import onnxruntime

    random = np.random.default_rng(0)
    a: NDArray[Any]
    b: NDArray[Any]
    if precision == "int8":
        operator, given, found = "MatMulInteger", "uint8", "int32"
        a = random.integers(0, 128, (side, side), np.uint8)
        b = random.integers(-63, 64, (side, side), np.int8)
    else:
        operator, given, found = "MatMul", "float", "float"
        a, b = random.standard_normal((2, side, side), np.float32)
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> product ({given}[{side}, {side}] a) '
        f"=> ({found}[{side}, {side}] c) {{ c = {operator}(a, b) }}"
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(b, "b"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: float(session.run(None, {"a": a})[0][-1, -1]), versions_of(onnxruntime)
