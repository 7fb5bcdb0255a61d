"""How surely a rounded model keeps the labels of its reference, from few images.

Counting labels that differ resolves nothing: one image of 20 is 5 %, and which images lie near a
tie is chance. What rounding adds to a margin is about the same on every image, so each image tells
of it, and its own margin then tells how likely such an addition turns its label.
"""

import math
from dataclasses import dataclass

import numpy as np

from vit_engine.errors import ParityError
from vit_engine.outputs.scores import Logits, Scores
from vit_export.quantization.calibration import MOST_USED
from vit_export.quantization.sensitivity import divergence

RIVALS = 5
"""Labels behind the best that may take its place."""

SURE = 1.96
"""Standard errors on either side of a mean that hold it in 95 of 100 cases."""


@dataclass(frozen=True)
class Agreement:
    """What `agreement_of` finds; shares are from 0 to 1."""

    images: int
    counted: float  # share of samples with the reference's label
    expected: float  # the same by margins: what more images like these would tend to
    low: float  # with `high`: the interval that holds `expected` in 95 of 100 cases
    high: float
    divergence: float  # mean `divergence` from the reference's scores, nats
    flipped: float  # the largest margin that a turned label had, in logits

    def __str__(self) -> str:
        return (
            f"{self.expected:.1%} of labels kept, by margins ({self.low:.1%} to {self.high:.1%} "
            f"with 95 % confidence; {self.counted:.1%} counted), divergence {self.divergence:.1e}, "
            f"turned labels within {self.flipped:.2g} of a tie"
        )

    def check(self, minimum: float, *, name: str, fix: str) -> None:
        """Raise ParityError where fewer than `minimum` of the labels are kept, as far as known."""
        if self.expected < minimum:
            raise ParityError(f"{name} keeps too few labels: {self} (allowed {minimum:.1%}); {fix}")

    def in_short(self, minimum: float) -> str:
        """Say what is kept, and whether the images tell surely that `minimum` is met."""
        low, expected, high = (f"{100 * x:.1f}" for x in (self.low, self.expected, self.high))
        words = f"int8 keeps about {expected} % of labels ({low} to {high})"
        if self.low < minimum <= self.high:
            words += f": more images would tell more surely (--calibrate uses up to {MOST_USED})"
        return words


def agreement_of(found: Logits, expected: Logits, output: Scores, views: int) -> Agreement:
    """Compare logits (images * views, labels), the views of an image one after another.

    A label is that of the softmax, or for sigmoids which labels are above a half. The interval
    counts images, not views: those of one image turn together.
    """
    reference, quantized = expected.astype(np.float64), found.astype(np.float64)
    if output.function == "sigmoid":
        margin, after = np.abs(reference), quantized * np.sign(reference)
    else:
        label = reference.argmax(1)[:, None]
        others = np.argsort(reference, 1)[:, -1 - RIVALS : -1]
        margin = np.take_along_axis(reference, label, 1) - np.take_along_axis(reference, others, 1)
        after = np.take_along_axis(quantized, label, 1) - np.take_along_axis(quantized, others, 1)
    noise = max(float(np.sqrt(((after - margin) ** 2).mean())) if margin.size else 0.0, 1e-12)
    turning = np.vectorize(math.erfc, otypes=[float])(margin / noise / math.sqrt(2)) / 2
    by_image = (1 - turning).prod(1).reshape(-1, views).mean(1)
    mean, count = float(by_image.mean()), len(by_image)
    # Below, as if one image more were a tie: few may all lie far from one by chance.
    doubtful = np.append(by_image, 0.5)
    same = output.agreements(found, expected)
    return Agreement(
        images=count,
        counted=float(same.mean()),
        expected=mean,
        low=max(0.0, float(doubtful.mean()) - SURE * float(doubtful.std()) / math.sqrt(count + 1)),
        high=min(1.0, mean + SURE * float(by_image.std()) / math.sqrt(count)),
        divergence=float(divergence(reference, quantized, output).mean()),
        flipped=float(margin[~same].min(1).max(initial=0.0)) if margin.size else 0.0,
    )
