"""GPTQ (arXiv:2210.17323): the error of a rounded weight is made good by those not yet rounded."""

import numpy as np

from vit_export.graph.weights import Array
from vit_export.quantization.activations import Statistics
from vit_export.quantization.operators import LEVELS, Int8Weights

DAMPING = 0.01
"""Added to the diagonal of x' x, as a share of its mean: what 40 images leave undetermined."""

BLOCK = 64
"""Input channels that are rounded before the rest is told."""


def int8_from_matrix(matrix: Array, bias: Array, found: Statistics) -> Int8Weights:
    """Round a matrix (K, M), the channels that move the output most first.

    Weights make up for each other as far as x' x says that their channels move together; the mean
    of what remains goes into the bias (M,).
    """
    scale = np.maximum(np.abs(matrix).max(0), 1e-12) / LEVELS
    matmuls = found.matmuls.astype(np.float64)
    strength = matmuls.diagonal()
    matmuls[np.diag_indices_from(matmuls)] += max(DAMPING * strength.mean(), 1e-12)
    order = np.argsort(-strength, kind="stable")
    # U'U is the inverse of x' x: row k of U says how the channels after k make up for k's error.
    upper = np.linalg.cholesky(np.linalg.inv(matmuls[np.ix_(order, order)])).T
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
