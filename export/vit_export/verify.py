"""Holds an artefact against eager PyTorch, image by image, through the runtime's own engine."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vit_engine.artefact.contract import Parity
from vit_engine.engine import Engine
from vit_engine.images.preprocess import pixels_from_image, rgb_from_image
from vit_engine.parity import Bounds, Logits, check_parity
from vit_engine.sources.find import items_from_sources
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.demo import draw
from vit_export.eager import eager_logits, eager_versions
from vit_export.families.family import Library
from vit_export.samples import drawn_samples, sample_from_item
from vit_export.utf8_path import in_utf8


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
    with in_utf8(path) as readable, Engine.open(readable, provider="cpu", adapt=False) as engine:
        contract = engine.contract
        pixels = [pixels_from_image(i, contract.preprocessing) for i in rgb]
        found = engine.run(np.stack(pixels))
    precision = contract.identity.precision
    check_parity(
        found,
        expected,
        bounds,
        name=f"the {precision} graph",
        reference="eager PyTorch",
        cure="export with --fp32, or look at the model with --no-verify",
    )
    return parity_from_logits(found, expected, library=checkpoint.family.library)


def parity_from_logits(
    found: Logits, expected: Logits, *, library: Library = "transformers"
) -> Parity:
    """Compare two sets of logits (N, labels), the expected ones from that library's model."""
    difference = np.abs(found - expected)
    return Parity(
        reference=eager_versions(library),
        images=len(expected),
        top1_agreement=float((found.argmax(1) == expected.argmax(1)).mean()),
        max_abs_diff=float(difference.max()),
        mean_abs_diff=float(difference.mean()),
        logit_range=float(np.ptp(expected)),
    )
