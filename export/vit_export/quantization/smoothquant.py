"""SmoothQuant (arXiv:2211.10438): large channels of an input are scaled down, their weights up.

The scales go into the layer that makes the input, so the float graph computes what it did.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from vit_export.files.weight_files import Tensor
from vit_export.graph.matmul import MatMul
from vit_export.graph.weights import Array, matrix_of
from vit_export.quantization.activations import Activations, Statistics

SMOOTHING = 0.6
"""The paper's alpha: how much of a channel's size the weights take over. Where the paper takes the
largest values, sizes here are root mean squares and norms; the least of a product's own noise is
there, on DeiT-Tiny."""

SMALLEST = 1e-5
"""A size below it counts as it: a channel that is never used keeps a finite scale."""


def smoothed(
    tensors: Mapping[str, Tensor], activations: Activations
) -> tuple[dict[str, Tensor], dict[MatMul, Statistics]]:
    """Return the tensors with a scale folded in for each product, and the statistics after it.

    A product that reads no layer's channels, as after a GELU, stays as it is.
    """
    result = dict(tensors)
    statistics = {}
    for matmul, found in activations.statistics.items():
        statistics[matmul] = found
        if matmul.input_layer is not None:
            scale = _scale(matrix_of(matmul, result), found)
            readers = (p for p in activations.matmuls if p.input_layer == matmul.input_layer)
            _fold(result, matmul.input_layer, (n for p in readers for n in p.layers), scale)
            statistics[matmul] = found.scaled(1 / scale)
    return result, statistics


def _scale(matrix: Array, found: Statistics) -> Array:
    """Return what each input channel of a matrix (K, M) is to be divided by: (K,).

    The paper's size(x)^alpha / size(w)^(1 - alpha), with 1 for geometric mean.
    """
    activation = np.maximum(found.size(), SMALLEST)
    weight = np.maximum(np.linalg.norm(matrix, axis=1), SMALLEST)
    scale = activation**SMOOTHING / weight ** (1 - SMOOTHING)
    return np.asarray(scale / np.exp(np.log(scale).mean()))


def _fold(tensors: dict[str, Tensor], producer: str, readers: Iterable[str], scale: Array) -> None:
    """Divide the producer's outputs by a scale (K,), multiply its readers' weights by it."""
    for name in (f"{producer}.weight", f"{producer}.bias"):
        if name in tensors:
            made = tensors[name].astype(np.float64)
            tensors[name] = made / scale.reshape(-1, *[1] * (made.ndim - 1))
    for reader in readers:
        tensors[f"{reader}.weight"] = tensors[f"{reader}.weight"].astype(np.float64) * scale
