"""Rounds a matrix to int8 by GPTQ: the error of a weight is made good by those not yet rounded."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vit_export.quantization.operators import LEVELS, Int8Weights

Array = NDArray[np.float64]

DAMPING = 0.01
"""Added to the diagonal of x' x, as a share of its mean: what 40 images leave undetermined."""

CLS_SHARE = 0.3
"""The CLS token's part in the statistics: the logits are read from it alone, and feel its rounding
as much as that of a hundred others."""

BLOCK = 64
"""Input channels that GPTQ rounds before it tells the rest."""


@dataclass(eq=False)
class Statistics:
    """Of one product's input x over the calibration images, with tokens weighed by CLS_SHARE."""

    total: Array  # (K,) sum of x
    products: NDArray[np.float32]  # (K, K) x' x
    weight: float = 0.0  # of all tokens

    def add(self, x: NDArray[np.float32]) -> None:
        """Count the tokens of x (images, tokens, K) in."""
        cls = CLS_SHARE / (1 - CLS_SHARE) * (x.shape[1] - 1)
        self.total += x[:, 1:].sum((0, 1), dtype=np.float64) + cls * x[:, 0].sum(0)
        rows = x.reshape(-1, x.shape[-1]).copy()
        rows[:: x.shape[1]] *= np.sqrt(cls)
        self.products += rows.T @ rows
        self.weight += len(x) * (x.shape[1] - 1 + cls)

    def scaled(self, scale: Array) -> "Statistics":
        """Return the statistics of x * scale."""
        products = (self.products * np.outer(scale, scale)).astype(np.float32)
        return Statistics(self.total * scale, products, self.weight)

    def size(self) -> Array:
        """Return each channel's root mean square (K,)."""
        return np.asarray(np.sqrt(self.products.diagonal() / self.weight))

    def mean(self) -> Array:
        """Return each channel's mean (K,)."""
        return np.asarray(self.total / self.weight)


def int8_from_matrix(matrix: Array, bias: Array, found: Statistics) -> Int8Weights:
    """Round a matrix (K, N) by GPTQ, the channels that move the output most first."""
    scale = np.maximum(np.abs(matrix).max(0), 1e-12) / LEVELS
    products = found.products.astype(np.float64)
    strength = products.diagonal()
    products[np.diag_indices_from(products)] += max(DAMPING * strength.mean(), 1e-12)
    order = np.argsort(-strength, kind="stable")
    # U'U is the inverse of x' x: row k of U says how the channels after k make up for k's error.
    upper = np.linalg.cholesky(np.linalg.inv(products[np.ix_(order, order)])).T
    left, steps = matrix[order], np.empty(matrix.shape, np.int8)
    for start in range(0, len(left), BLOCK):
        end = min(start + BLOCK, len(left))
        errors = np.empty((end - start, left.shape[1]))
        for k in range(start, end):
            steps[k] = np.clip(np.rint(left[k] / scale), -LEVELS, LEVELS)
            errors[k - start] = (left[k] - steps[k] * scale) / upper[k, k]
            left[k:end] -= np.outer(upper[k, k:end], errors[k - start])
        left[end:] -= upper[start:end, end:].T @ errors
    result = np.empty_like(steps)
    result[order] = steps
    return Int8Weights(result, scale, bias + found.mean() @ (matrix - result * scale))
