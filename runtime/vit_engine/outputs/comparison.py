"""How far arrays stray from others for the same images, batch by batch."""

import numpy as np
from numpy.typing import NDArray

from vit_engine.outputs.kinds import OutputKind


class Comparison:
    """Counts and errors of all batches so far; the errors of no image are 0.

    `agreement` is the share of images on which the two agree, as their kind of output means it: on
    the best label, on which labels reach `threshold`, or on vectors whose cosine does. It is None
    for values, which have errors.
    Errors are those of scikit-learn: means over labels, by the same weight for each.
    """

    def __init__(self, output: OutputKind, threshold: float | None = None) -> None:
        self._output = output
        self._threshold = output.default_threshold if threshold is None else threshold
        self.images = self.different = 0
        self._counted = False  # whether there is anything to agree on
        self.max_abs_diff, self._low, self._high = 0.0, np.inf, -np.inf
        columns = np.zeros(output.shape)
        self._absolute, self._squares = columns.copy(), columns.copy()
        self._shift, self._sum, self._spread = columns, columns.copy(), columns.copy()

    def add(self, found: NDArray[np.float32], expected: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Count a batch (N, ...); return of each image whether the two agree, (0,) for values."""
        same = self._output.agreements(found, expected, threshold=self._threshold)
        self._counted |= bool(same.size)
        self.different += int((~same).sum())
        true = expected.astype(np.float64)
        difference = found - true
        if not self.images:
            self._shift = true[0]  # of values far from 0 the squares would lose digits
        self.images += len(true)
        self.max_abs_diff = max(self.max_abs_diff, float(np.abs(difference).max()))
        self._low, self._high = min(self._low, true.min()), max(self._high, true.max())
        self._absolute += np.abs(difference).sum(0)
        self._squares += np.square(difference).sum(0)
        self._sum += (true - self._shift).sum(0)
        self._spread += np.square(true - self._shift).sum(0)
        return same

    @property
    def agreement(self) -> float | None:
        """The share of images on which the two agree."""
        return 1 - self.different / self.images if self._counted else None

    @property
    def mean_abs_diff(self) -> float:
        """The mean absolute difference of an element."""
        return float(self._absolute.mean() / max(1, self.images))

    @property
    def root_mean_square(self) -> float:
        """The root of the mean square of the differences."""
        return float(np.sqrt(self._squares / max(1, self.images)).mean())

    @property
    def r2(self) -> float | None:
        """The coefficient of determination, R²; of fewer than two images there is none."""
        if self.images < 2:
            return None
        total = self._spread - np.square(self._sum) / self.images
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(total > 0, 1 - self._squares / total, self._squares == 0)
        return float(shares.mean())

    @property
    def range(self) -> float:
        """How far apart the least and the largest expected elements are."""
        return float(self._high - self._low) if self.images else 0.0

    def __str__(self) -> str:
        """Say in how far the two agree: "the same label on 99.1% of 1,000 images"."""
        if self.agreement is None:
            return f"R² {self.r2:.4f}" if self.r2 is not None else "too few images for an R²"
        return f"{self._output.agreed} on {self.agreement:.1%} of {self.images:,} images"
