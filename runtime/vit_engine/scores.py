"""From logits to labels with scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEFAULT_TOP_K = 5


@dataclass(frozen=True)
class Score:
    """One label of an image; `score` is its softmax probability."""

    label: str
    index: int
    score: float


def best_scores(
    logits: NDArray[np.float32], labels: Sequence[str], top_k: int
) -> Iterator[tuple[Score, ...] | None]:
    """Yield the `top_k` labels of each row of logits (N, labels), best first, equal ones by index.

    None for a row that is not finite.
    """
    if not len(logits):
        return
    top_k = min(top_k, len(labels))
    with np.errstate(invalid="ignore"):
        scores = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    worst = np.partition(logits, -top_k, axis=1)[:, -top_k]  # of those that are shown
    for i, row in enumerate(logits):
        if not np.isfinite(row).all():
            yield None
            continue
        shown = np.flatnonzero(row >= worst[i])
        shown = shown[np.argsort(-row[shown], kind="stable")][:top_k]
        yield tuple(Score(labels[j], j, float(scores[i, j])) for j in shown.tolist())
