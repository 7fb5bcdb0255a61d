"""Holds an artefact against eager PyTorch, image by image, through the runtime's own engine."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_engine.artefact.contract import Parity
from vit_engine.engine import Engine
from vit_engine.errors import ParityError
from vit_engine.images.preprocess import pixels_from_image, rgb_from_image
from vit_engine.sources.find import items_from_sources
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.demo import draw
from vit_export.eager import eager_logits, eager_versions
from vit_export.graph.choices import Precision
from vit_export.samples import drawn_samples, sample_from_item

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Bounds:
    """How far an artefact may stray before it is refused.

    `max_diff` is a share of the reference's logit range. `min_agreement` is the share of images
    with the reference's top-1, among those that the reference decides by more than `tie`, also a
    share of the range.
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


def verification_images(sources: Iterable[str] | None) -> Iterator[Image.Image]:
    """Yield the images of the sources, or drawn ones; UsageError where one cannot be read."""
    if sources is None:
        yield from drawn_samples(len(draw.LABELS))
        return
    for item in items_from_sources(sources):
        yield sample_from_item(item, "--verify-images")


def parity_of(
    path: Path, checkpoint: Checkpoint, images: Iterable[Image.Image], bounds: Bounds
) -> Parity:
    """Measure the artefact at `path` against eager fp32 PyTorch; ParityError beyond its bounds.

    The reference preprocesses with transformers and the artefact with the runtime, so that a
    difference of either shows. An FP16 artefact rounds between operators, as on a GPU.
    """
    rgb = [rgb_from_image(image) for image in images]
    expected = eager_logits(checkpoint, rgb)
    with Engine.open(path, provider="cpu", adapt=False) as engine:
        contract = engine.contract
        pixels = [pixels_from_image(i, contract.preprocessing) for i in rgb]
        found = engine.run(np.stack(pixels))
    precision = contract.identity.precision
    check_parity(found, expected, bounds, f"the {precision} graph")
    return parity_from_logits(found, expected)


def parity_from_logits(found: Logits, expected: Logits) -> Parity:
    """Compare two sets of logits (N, labels)."""
    difference = np.abs(found - expected)
    return Parity(
        reference=eager_versions(),
        images=len(expected),
        top1_agreement=float((found.argmax(1) == expected.argmax(1)).mean()),
        max_abs_diff=float(difference.max()),
        mean_abs_diff=float(difference.mean()),
        logit_range=float(np.ptp(expected)),
    )


def check_parity(found: Logits, expected: Logits, bounds: Bounds, name: str) -> None:
    """Raise ParityError unless `found` (N, labels) is finite and within the bounds."""
    if not np.isfinite(found).all():
        raise ParityError(
            f"{name} gives NaN or Inf on {int((~np.isfinite(found)).any(1).sum())} of "
            f"{len(found)} images, eager PyTorch does not; export with --fp32"
        )
    allowed = bounds.max_diff * float(np.ptp(expected))
    worst = float(np.abs(found - expected).max())
    runner_up, best = np.sort(expected, axis=1)[:, -2:].T if expected.shape[1] > 1 else (0, 1)
    decided = best - runner_up > bounds.tie * float(np.ptp(expected))
    agreement = (found.argmax(1) == expected.argmax(1))[decided]
    if worst > allowed or (agreement.size and agreement.mean() < bounds.min_agreement):
        raise ParityError(
            f"{name} strays from eager PyTorch: max |logit difference| {worst:.3g} "
            f"(allowed {allowed:.3g}), top-1 agreement {agreement.sum()} of {agreement.size} "
            f"decided images (allowed {bounds.min_agreement:.1%}); export with --fp32, "
            "or look at the model with --no-verify"
        )
