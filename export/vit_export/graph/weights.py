"""Where the graph's modules take their weights from, and who makes their products."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxscript import ir, nn

from vit_engine.artefact.contract import Precision
from vit_export.graph.matmul import MatMul

Array = NDArray[np.float64]
Tensors = Mapping[str, NDArray[np.generic]]
"""By canonical name (see `families.form`)."""

DTYPES: dict[Precision, np.dtype[Any]] = {
    "fp16": np.dtype(np.float16),
    "fp32": np.dtype(np.float32),
    "int8": np.dtype(np.float32),
}
"""What the weights are rounded to; in an int8 artefact, those that stay in float."""


class Weights:
    """The tensors of a form, widened to float64, narrowed once on the way into the graph."""

    def __init__(
        self, tensors: Tensors, dtype: np.dtype[Any], linear: "LinearFactory", opset: int
    ) -> None:
        self.tensors, self.dtype, self._linear, self.opset = tensors, dtype, linear, opset

    def __getitem__(self, name: str) -> Array:
        """Return the tensor of that canonical name, in memory of its own."""
        return self.tensors[name].astype(np.float64)

    def parameter(
        self, array: NDArray[np.generic], dtype: type[np.generic] | None = None
    ) -> nn.Parameter:
        """Return the array as a graph weight, by default in the artefact's precision."""
        narrow = np.ascontiguousarray(array.astype(dtype or self.dtype))
        return nn.Parameter(narrow.shape, data=ir.tensor(narrow))

    def linear(self, matmul: MatMul) -> nn.Module:
        """Return the product's module: from x (N, T, K) to x @ W + b (N, T, M)."""
        return self._linear(self, matmul)


LinearFactory = Callable[[Weights, MatMul], nn.Module]
"""Makes the module of each product: all in float, or some in int8."""


def matrix_of(matmul: MatMul, tensors: Tensors) -> Array:
    """Return the product's weights (K, M), the layers side by side."""
    matrices = [tensors[f"{layer}.weight"].astype(np.float64).T for layer in matmul.layers]
    return np.concatenate(matrices, axis=1)


def bias_of(matmul: MatMul, tensors: Tensors) -> Array | None:
    """Return the product's bias (M,), or None where its layers have none."""
    if f"{matmul.layers[0]}.bias" not in tensors:
        return None
    return np.concatenate([tensors[f"{n}.bias"].astype(np.float64) for n in matmul.layers])
