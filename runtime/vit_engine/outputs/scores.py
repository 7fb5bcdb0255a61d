"""From logits to labels with scores."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Output, ScoreKind
from vit_engine.errors import UsageError

DEFAULT_TOP_K = 5
"""Labels of an image where neither their number nor a threshold is given."""


@dataclass(frozen=True)
class Score:
    """One label of an image, and its score as the model means it."""

    label: str
    index: int
    score: float


@dataclass(frozen=True)
class Selection:
    """Which labels of an image are given: the best `top_k`, of those that reach `threshold`."""

    top_k: int
    threshold: float | None


def selection_from_options(
    output: Output, *, top_k: int | None, threshold: float | None
) -> Selection:
    """Return which labels a user asks for; UsageError for a threshold that no score can be.

    Without `top_k` as many as reach the threshold, without a threshold the best few.
    """
    labels = len(output.labels)
    if top_k is None:
        top_k = DEFAULT_TOP_K if threshold is None else labels
    if threshold is not None:
        if not math.isfinite(threshold):
            raise UsageError(f"threshold is {threshold}, it must be a finite number")
        if output.score != "none" and not 0 <= threshold <= 1:
            raise UsageError(
                f"threshold is {threshold:g}, the scores of this model are from 0 to 1 "
                f"({output.score})"
            )
    return Selection(min(top_k, labels), threshold)


def best_scores(
    logits: NDArray[np.float32], output: Output, selection: Selection
) -> Iterator[tuple[Score, ...] | None]:
    """Yield the selected labels of each row of logits (N, labels), best first, equal ones by index.

    None for a row that is not finite.
    """
    if not len(logits):
        return
    top_k, labels = selection.top_k, output.labels
    scores = scores_from_logits(logits, output.score)
    worst = np.partition(logits, -top_k, axis=1)[:, -top_k]  # of those that are shown
    least = -math.inf if selection.threshold is None else selection.threshold
    for i, row in enumerate(logits):
        if not np.isfinite(row).all():
            yield None
            continue
        shown = np.flatnonzero((row >= worst[i]) & (scores[i] >= least))
        shown = shown[np.argsort(-row[shown], kind="stable")][:top_k]
        yield tuple(Score(labels[j], j, float(scores[i, j])) for j in shown.tolist())


def scores_from_logits(logits: NDArray[np.float32], score: ScoreKind) -> NDArray[np.float64]:
    """Return the scores (N, labels) of logits; those of a row that is not finite mean nothing."""
    exact = logits.astype(np.float64)
    if score == "none":
        return exact
    with np.errstate(invalid="ignore", over="ignore"):
        if score == "sigmoid":
            sigmoid: NDArray[np.float64] = 1 / (1 + np.exp(-exact))
            return sigmoid
        powers: NDArray[np.float64] = np.exp(exact - exact.max(axis=1, keepdims=True))
        softmax: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return softmax
