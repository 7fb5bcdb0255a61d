"""Which products stay in float: the most sensitive, and no more than the model needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.graph.product import Product
from vit_export.quantization.operators import Int8Weights
from vit_export.quantization.sensitivity import divergence, logits_of

SHARES = (0.06, 0.12, 0.2)
"""Of the multiply-adds of the products that could run in int8, what may stay in float: an estimated
8, 16 and 27 % of the time."""

AIM = 5e-4
"""The mean divergence from the float graph's scores that is aimed at, in nats. Labels kept resolve
nothing here: of 40 images, one near a tie is 1 % whatever stays in float."""


@dataclass(frozen=True)
class FloatShare:
    """The products that stay in float, what they are of the multiply-adds, and what comes of it."""

    products: frozenset[Product]
    share: float
    divergence: float | None  # None for a regression, whose values have no unit


def float_share(
    checkpoint: Checkpoint,
    rounded: Mapping[Product, Int8Weights],
    sensitivity: Mapping[Product, float],
    pixels: NDArray[np.uint8],
    progress: Callable[[str], None],
) -> FloatShare:
    """Return the least of SHARES that keeps to AIM on the images (N, H, W, 3).

    The largest where none does; a regression has the least.
    """
    if checkpoint.score == "none":
        return FloatShare(*worth_float(rounded, sensitivity, SHARES[0]), None)
    true = logits_of(checkpoint, {}, pixels)
    for limit in SHARES:
        progress(f"running the graph with {limit:.0%} of its multiply-adds in float")
        products, share = worth_float(rounded, sensitivity, limit)
        rest = {product: w for product, w in rounded.items() if product not in products}
        found = logits_of(checkpoint, rest, pixels)
        mean = float(divergence(true, found, checkpoint.score).mean())
        if mean <= AIM:
            break
    return FloatShare(products, share, mean)


def worth_float(
    rounded: Mapping[Product, Int8Weights], sensitivity: Mapping[Product, float], limit: float
) -> tuple[frozenset[Product], float]:
    """Return the products whose place in float buys most, and their share of the multiply-adds.

    As many as a share of `limit` pays for.
    """
    cost = {product: weights.matrix.size for product, weights in rounded.items()}
    whole = sum(cost.values())
    left = limit * whole
    chosen = set()
    for product in sorted(cost, key=lambda p: -sensitivity[p] / cost[p]):
        if cost[product] <= left:
            left -= cost[product]
            chosen.add(product)
    return frozenset(chosen), sum(cost[product] for product in chosen) / whole
