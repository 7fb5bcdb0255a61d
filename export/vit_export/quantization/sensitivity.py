"""How much the logits feel each product's rounding, and which products stay in float."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vit_engine.outputs.embeddings import Embeddings, cosines
from vit_engine.outputs.kinds import OutputKind
from vit_engine.outputs.scores import Scores
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.graph.matmul import MatMul
from vit_export.graph.model import model_from_checkpoint
from vit_export.graph.weights import Array
from vit_export.quantization.activations import BATCH
from vit_export.quantization.model_session import open_model_session
from vit_export.quantization.operators import Int8Weights, linear_with_int8

PROBES = 8
"""Calibration images that sensitivity is measured on."""

SHARES = (0.0, 0.06, 0.12, 0.2)
"""Of the multiply-adds of the products that could run in int8, what may stay in float: an estimated
0, 8, 16 and 27 % of the time."""

AIM = 5e-4
"""The mean divergence from the float graph's scores that is aimed at, in nats. Labels kept resolve
nothing here: of 40 images, one near a tie is 1 % whatever stays in float."""


@dataclass(frozen=True)
class FloatShare:
    """The products that stay in float, what they are of the multiply-adds, and what comes of it."""

    matmuls: frozenset[MatMul]
    share: float
    divergence: float | None  # None for a regression, whose values have no unit


def sensitivity_of(
    checkpoint: Checkpoint,
    int8_weights: Mapping[MatMul, Int8Weights],
    pixels: NDArray[np.uint8],
    progress: Callable[[str], None],
) -> dict[MatMul, float]:
    """Return what each product alone in int8 does to the scores, the most sensitive first.

    It is the mean `divergence` from the float graph over PROBES of the images (N, H, W, 3).
    """
    probes = pixels[:: -(-len(pixels) // PROBES)]
    true = logits_of(checkpoint, {}, probes)
    found = {}
    for done, (matmul, weights) in enumerate(int8_weights.items()):
        progress(f"running only {matmul} in int8 ({done} of {len(int8_weights)} products)")
        alone = logits_of(checkpoint, {matmul: weights}, probes)
        found[matmul] = float(divergence(true, alone, checkpoint.output).mean())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def float_share(
    checkpoint: Checkpoint,
    int8_weights: Mapping[MatMul, Int8Weights],
    sensitivity: Mapping[MatMul, float],
    pixels: NDArray[np.uint8],
    progress: Callable[[str], None],
) -> FloatShare:
    """Return the least of SHARES that keeps to AIM on the images (N, H, W, 3).

    The largest where none does; a regression, whose values have no unit, has the second.
    """
    if isinstance(checkpoint.output, Scores) and checkpoint.output.function == "none":
        return FloatShare(*choose_float_layers(int8_weights, sensitivity, SHARES[1]), None)
    true = logits_of(checkpoint, {}, pixels)
    for limit in SHARES:
        progress(f"running the graph with {limit:.0%} of its multiply-adds in float")
        matmuls, share = choose_float_layers(int8_weights, sensitivity, limit)
        rest = {matmul: w for matmul, w in int8_weights.items() if matmul not in matmuls}
        found = logits_of(checkpoint, rest, pixels)
        mean = float(divergence(true, found, checkpoint.output).mean())
        if mean <= AIM:
            break
    return FloatShare(matmuls, share, mean)


def choose_float_layers(
    int8_weights: Mapping[MatMul, Int8Weights], sensitivity: Mapping[MatMul, float], limit: float
) -> tuple[frozenset[MatMul], float]:
    """Return the products whose place in float buys most, and their share of the multiply-adds.

    As many as a share of `limit` pays for.
    """
    cost = {matmul: weights.matrix.size for matmul, weights in int8_weights.items()}
    whole = sum(cost.values())
    left = limit * whole
    chosen = set()
    for matmul in sorted(cost, key=lambda p: -sensitivity[p] / cost[p]):
        if cost[matmul] <= left:
            left -= cost[matmul]
            chosen.add(matmul)
    return frozenset(chosen), sum(cost[matmul] for matmul in chosen) / whole


def divergence(true: Array, found: Array, output: OutputKind) -> Array:
    """Return how far each row of outputs (N, ...) is from the true one, (N,).

    Of vectors it is 1 less their cosine. Of logits it is how far their scores are:

    Kullback-Leibler's, in nats: between two distributions over the labels for softmax, summed over
    the labels for sigmoid. Of a regression's values it is the squared difference.
    """
    if isinstance(output, Embeddings):
        return 1 - cosines(true, found)
    score = output.function
    if score == "none":
        return np.asarray(np.square(true - found).sum(1))
    if score == "sigmoid":
        return _of_one_side(true, found) + _of_one_side(-true, -found)
    true, found = _log_softmax(true), _log_softmax(found)
    return np.asarray((np.exp(true) * (true - found)).sum(1))


def _of_one_side(true: Array, found: Array) -> Array:
    """Return the part of a sigmoid's divergence that its being true has, summed over labels."""
    log_true, log_found = -np.logaddexp(0, -true), -np.logaddexp(0, -found)
    return np.asarray((np.exp(log_true) * (log_true - log_found)).sum(1))


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def logits_of(
    checkpoint: Checkpoint, int8_weights: Mapping[MatMul, Int8Weights], pixels: NDArray[np.uint8]
) -> Array:
    """Return the logits (N, labels) of the graph with those products in int8."""
    model = model_from_checkpoint(
        checkpoint, precision="int8", io="uint8", linear=linear_with_int8(int8_weights)
    )
    session = open_model_session(model)
    parts = np.split(pixels, range(BATCH, len(pixels), BATCH))
    found = [session.run(None, {"pixels": part})[0] for part in parts]
    return np.concatenate(found).astype(np.float64)
