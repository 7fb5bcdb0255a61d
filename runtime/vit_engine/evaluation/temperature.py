"""Temperature scaling: one number for a model, by which its scores come to mean what they say.

Guo et al., On Calibration of Modern Neural Networks, 2017 (arXiv:1706.04599).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import UsageError
from vit_engine.evaluation.examples import JudgedImage
from vit_engine.evaluation.free_labels import MAX_SCORES
from vit_engine.outputs.scores import Scores

LEAST, MOST = 0.01, 100.0
"""Between which the temperature is sought."""

_STEPS = 40  # that halve the range of its logarithm
_ROUNDING = 1e-9  # of a slope, where all scores are 0 and 1
_BLOCK = 4096  # images whose scores are computed at a time


class TemperatureScaling:
    """Keeps logits and true labels, and finds the temperature of the least log loss.

    Of more than MAX_SCORES scores the first are taken.
    """

    def __init__(self, output: Scores) -> None:
        self._output = output
        self._logits: list[NDArray[np.float32]] = []
        self._true: list[tuple[int, ...]] = []

    def add(self, image: JudgedImage) -> None:
        """Take an image of known truth."""
        if (len(self._true) + 1) * len(image.logits) <= MAX_SCORES:
            self._logits.append(image.logits.copy())
            self._true.append(image.true)

    def fitted(self) -> float:
        """Return the temperature; UsageError where the images do not decide it."""
        low, high = np.log(LEAST), np.log(MOST)
        if self._slope(LEAST) <= _ROUNDING or self._slope(MOST) >= 0:
            raise UsageError(
                f"--calibrate: the images ({len(self._true):,}) do not decide a temperature: they "
                "are all labelled right, or no better than by chance; give more"
            )
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._slope(float(np.exp(middle))) > 0 else (low, middle)
        return float(np.exp((low + high) / 2))

    def line(self, temperature: float) -> str:
        """Return what is printed of the temperature."""
        loss, before = map(self.log_loss, (temperature, self._output.temperature))
        return (
            f"temperature {temperature:.4g} by {len(self._true):,} images: mean log loss "
            f"{loss:.4f}, {before:.4f} before"
        )

    def log_loss(self, temperature: float) -> float:
        """Return the mean negative logarithm of the score of what is true."""
        losses = []
        for _, scores, truth in self._blocks(temperature):
            alone = self._output.function == "sigmoid"
            of_truth = np.where(truth, scores, 1 - scores) if alone else scores[truth]
            losses.append(-np.log(np.maximum(of_truth, 1e-300)).ravel())
        return float(np.concatenate(losses).mean())

    def _blocks(self, temperature: float) -> Iterator[tuple[NDArray[Any], ...]]:
        """Yield logits, scores and truths (N, labels)."""
        output = replace(self._output, temperature=temperature)
        for start in range(0, len(self._true), _BLOCK):
            logits = np.stack(self._logits[start : start + _BLOCK])
            truth = np.zeros(logits.shape, np.bool_)
            for row, true in zip(truth, self._true[start:], strict=False):
                row[list(true)] = True
            yield logits, output.scores(logits), truth

    def _slope(self, temperature: float) -> float:
        """Return how the log loss grows with 1 / temperature, in which it is convex."""
        return sum(float((z * (p - t)).sum()) for z, p, t in self._blocks(temperature))
