"""How far outputs may stray from a reference: one rule for exports, built engines and trials."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import EmbeddingParity, Input, Parity, Precision
from vit_engine.errors import ParityError
from vit_engine.outputs.embeddings import Embeddings, Vectors, cosines
from vit_engine.outputs.kinds import OutputKind
from vit_engine.outputs.scores import Logits, Scores

SAMPLES = 8
"""Images of `sample_pixels`."""


@dataclass(frozen=True)
class Bounds:
    """How far outputs may stray before they are refused.

    `max_diff` is a share of the range of the reference's logits. `min_agreement` is the share of
    images on which the two agree, as their kind of output means it, among those that the reference
    decides by more than `tie`, also a share of the range. Of vectors all of that is left out:
    `min_cosine` is the least that the two of an image may have, and the least share of the one's
    length that the other's may be.
    """

    max_diff: float
    min_agreement: float
    tie: float
    min_cosine: float = 0.0


BOUNDS: dict[Precision, Bounds] = {
    "fp32": Bounds(1e-3, 1.0, 1e-3, 0.99999),
    "fp16": Bounds(1e-2, 1.0, 1e-2, 0.999),
    "int8": Bounds(0.2, 0.98, 0.0, 0.97),
}
"""By precision. Measured on DeiT-Tiny: 2e-6 of the range for fp32, 4e-4 for fp16, 0.02 for int8."""

ROUNDED = Bounds(0.2, 1.0, 0.1, 0.97)
"""For two ways to round the same model to int8 or bf16, on images of no meaning. Measured on
DeiT-Tiny: 0.02 of the range."""


def check_parity(
    found: NDArray[np.float32],
    expected: NDArray[np.float32],
    bounds: Bounds,
    *,
    output: OutputKind,
    name: str,
    reference: str,
    fix: str,
    known: Parity | EmbeddingParity | None = None,
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
    if isinstance(output, Embeddings):
        strays = _vectors_apart(found, expected, bounds)
    else:
        known_range = known.logit_range if isinstance(known, Parity) else 0.0
        strays = _logits_apart(found, expected, bounds, output, known_range)
    if strays:
        raise ParityError(f"{name} differs too much from {reference}: {strays}; {fix}")


def _logits_apart(
    found: Logits, expected: Logits, bounds: Bounds, output: Scores, known_range: float
) -> str:
    """Say how far logits are apart, "" where that is within the bounds."""
    extent = max(float(np.ptp(expected)), known_range)
    allowed = bounds.max_diff * extent
    worst = float(np.abs(found - expected).max())
    agreement = output.agreements(found, expected, tie=bounds.tie * extent)
    if worst <= allowed and not (agreement.size and agreement.mean() < bounds.min_agreement):
        return ""
    message = f"max |logit difference| {worst:.3g} (allowed {allowed:.3g})"
    if agreement.size:
        message += (
            f", agreement {agreement.sum()} of {agreement.size} decided images (allowed "
            f"{bounds.min_agreement:.1%})"
        )
    return message


def _vectors_apart(found: Vectors, expected: Vectors, bounds: Bounds) -> str:
    """Say how far vectors are apart, "" where that is within the bounds."""
    least = bounds.min_cosine
    cosine = float(cosines(found, expected).min())
    a, b = (np.linalg.norm(x.astype(np.float64), axis=1) for x in (found, expected))
    length = float((np.minimum(a, b) / np.maximum(np.maximum(a, b), 1e-30)).min())
    if min(cosine, length) >= least:
        return ""
    return (
        f"least cosine of an image's two vectors {cosine:.6f}, least ratio of their lengths "
        f"{length:.6f} (allowed {least:g})"
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
