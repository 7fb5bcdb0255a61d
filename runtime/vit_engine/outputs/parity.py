"""How far logits may stray from a reference: one rule for exports, built engines and trials."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Input, Parity, Precision
from vit_engine.errors import ParityError
from vit_engine.outputs.kinds import OutputKind
from vit_engine.outputs.scores import Logits

SAMPLES = 8
"""Images of `sample_pixels`."""


@dataclass(frozen=True)
class Bounds:
    """How far logits may stray before they are refused.

    `max_diff` is a share of the range of the reference's logits. `min_agreement` is the share of
    images on which the two agree, as their kind of output means it, among those that the reference
    decides by more than `tie`, also a share of the range.
    """

    max_diff: float
    min_agreement: float
    tie: float


BOUNDS: dict[Precision, Bounds] = {
    "fp32": Bounds(1e-3, 1.0, 1e-3),
    "fp16": Bounds(1e-2, 1.0, 1e-2),
    "int8": Bounds(0.2, 0.98, 0.0),
}
"""By precision. Measured on DeiT-Tiny: 2e-6 of the range for fp32, 4e-4 for fp16, 0.02 for int8."""

ROUNDED = Bounds(0.2, 1.0, 0.1)
"""For two ways to round the same model to int8 or bf16, on images of no meaning. Measured on
DeiT-Tiny: 0.02 of the range."""


def check_parity(
    found: Logits,
    expected: Logits,
    bounds: Bounds,
    *,
    output: OutputKind,
    name: str,
    reference: str,
    fix: str,
    known: Parity | None = None,
) -> None:
    """Raise ParityError unless `found` (N, ...) is finite and within the bounds of `expected`.

    `output` says on what two images' logits agree, which may be nothing. `name` is what gave
    `found`, `reference` what gave `expected`, `fix` what to do about it. `known` is an artefact's
    own parity: the range of its logits over real images, which is wider than over a few drawn ones.
    """
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        raise ParityError(
            f"{name} gives NaN or Inf on {int((~finite).sum())} of {len(found)} images, "
            f"{reference} does not; {fix}"
        )
    extent = max(float(np.ptp(expected)), known.logit_range if known else 0.0)
    allowed = bounds.max_diff * extent
    worst = float(np.abs(found - expected).max())
    agreement = output.agreements(found, expected, tie=bounds.tie * extent)
    if worst > allowed or (agreement.size and agreement.mean() < bounds.min_agreement):
        alike = ""
        if agreement.size:
            alike = (
                f", agreement {agreement.sum()} of {agreement.size} decided images (allowed "
                f"{bounds.min_agreement:.1%})"
            )
        raise ParityError(
            f"{name} differs too much from {reference}: max |logit difference| {worst:.3g} "
            f"(allowed {allowed:.3g}){alike}; {fix}"
        )


def sample_pixels(input_spec: Input) -> NDArray[np.uint8]:
    """Return smooth and noisy seeded images (SAMPLES, height, width, 3) of the input's size."""
    rng = np.random.default_rng(0)
    images = []
    for cells in (2, 4, 8, input_spec.height):
        rows, columns = (np.arange(n) * cells // n for n in (input_spec.height, input_spec.width))
        for _ in range(SAMPLES // 4):
            coarse = rng.integers(0, 256, (cells, cells, 3), np.uint8)
            images.append(coarse[rows][:, columns])
    return np.stack(images)
