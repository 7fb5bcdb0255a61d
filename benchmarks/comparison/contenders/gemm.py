"""A large matrix product in PyTorch or ONNX Runtime: the ceiling of its precision on this machine.

Their CPU kernels differ, so that the better of the two counts.
"""

import timeit
from collections.abc import Callable
from typing import Any

import numpy as np

from comparison.contenders.pytorch import DTYPES
from comparison.job import AbsentError, Contender, Job, Logits, installed

SIDE = {"cpu": 4096, "cuda": 8192}

INT8_SPREAD = 16
"""Of normal numbers, of which none then leaves a byte."""

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
    torch.manual_seed(0)
    matmul: Any = torch.mm
    pair = torch.randn(2, side, side)
    if precision == "int8":
        pair, matmul = pair * INT8_SPREAD, torch._int_mm
    a, b = pair.to(job.device, getattr(torch, DTYPES.get(precision, precision)))
    return lambda: float(matmul(a, b)[-1, -1]), installed("torch")


def _in_onnxruntime(side: int, precision: str, job: Job) -> tuple[Multiply, str]:
    """A graph of one product, its right side constant as weights are."""
    import onnx
    import onnxruntime

    a, b = np.random.default_rng(0).standard_normal((2, side, side), np.float32)
    operator, given, found = "MatMul", "float", "float"
    if precision == "int8":
        operator, given, found = "MatMulInteger", "uint8", "int32"
        a, b = (abs(a) * INT8_SPREAD).astype(np.uint8), (b * INT8_SPREAD).astype(np.int8)
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> product ({given}[{side}, {side}] a) '
        f"=> ({found}[{side}, {side}] c) {{ c = {operator}(a, b) }}"
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(b, "b"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    cpu = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=cpu)
    return lambda: float(session.run(None, {"a": a})[0][-1, -1]), installed("onnxruntime")
