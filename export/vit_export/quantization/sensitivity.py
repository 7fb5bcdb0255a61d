"""How much the logits feel each product's rounding, and which products are worth their float."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import ScoreKind
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.graph.model import model_from_checkpoint
from vit_export.graph.product import Product
from vit_export.graph.weights import Array
from vit_export.quantization.operators import Int8Weights, linear_with_int8
from vit_export.quantization.trial import trial_session

PROBES = 8
"""Calibration images that sensitivity is measured on."""

FLOAT_SHARE = 0.06
"""Of the multiply-adds of the products that could run in int8, what may stay in float: an estimated
8 % of the time."""


def sensitivity_of(
    checkpoint: Checkpoint,
    rounded: Mapping[Product, Int8Weights],
    pixels: NDArray[np.uint8],
    progress: Callable[[str], None],
) -> dict[Product, float]:
    """Return what each product alone in int8 does to the scores, the most sensitive first.

    It is the mean `divergence` from the float graph over PROBES of the images (N, H, W, 3).
    """
    probes = pixels[:: -(-len(pixels) // PROBES)]
    true = _logits(checkpoint, {}, probes)
    found = {}
    for done, (product, weights) in enumerate(rounded.items()):
        progress(f"running {product} in int8 alone ({done} of {len(rounded)} products)")
        alone = _logits(checkpoint, {product: weights}, probes)
        found[product] = float(divergence(true, alone, checkpoint.score).mean())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def worth_float(
    rounded: Mapping[Product, Int8Weights], sensitivity: Mapping[Product, float]
) -> set[Product]:
    """Return the products whose place in float buys most, as many as FLOAT_SHARE pays for."""
    cost = {product: weights.matrix.size for product, weights in rounded.items()}
    left = FLOAT_SHARE * sum(cost.values())
    chosen = set()
    for product in sorted(cost, key=lambda p: -sensitivity[p] / cost[p]):
        if cost[product] <= left:
            left -= cost[product]
            chosen.add(product)
    return chosen


def divergence(true: Array, found: Array, score: ScoreKind) -> Array:
    """Return how far the scores of each row of logits (N, labels) are from the true ones, (N,).

    Kullback-Leibler's, in nats: between two distributions over the labels for softmax, summed over
    the labels for sigmoid. Of a regression's values it is the squared difference.
    """
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


def _logits(
    checkpoint: Checkpoint, rounded: Mapping[Product, Int8Weights], pixels: NDArray[np.uint8]
) -> Array:
    """Return the logits (N, labels) of the graph with those products in int8."""
    model = model_from_checkpoint(
        checkpoint, precision="int8", io="uint8", linear=linear_with_int8(rounded)
    )
    return np.asarray(trial_session(model).run(None, {"pixels": pixels})[0].astype(np.float64))
