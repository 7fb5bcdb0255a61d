"""Holds an artefact against eager PyTorch, image by image, through the runtime's own engine."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vit_engine.artefact.contract import Parity
from vit_engine.engine import Engine
from vit_engine.images.preprocess import pixels_from_image, rgb_from_image
from vit_engine.parity import Bounds, Logits, check_parity
from vit_engine.sources.item import Item
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.demo import draw
from vit_export.eager import eager_logits, eager_versions
from vit_export.samples import drawn_samples, sample_from_item
from vit_export.utf8_path import in_utf8


def verification_images(items: Iterable[Item] | None) -> Iterator[Image.Image]:
    """Yield a user's images, or drawn ones; UsageError where one cannot be read."""
    if items is None:
        return drawn_samples(len(draw.LABELS))
    return (sample_from_item(item, "--verify-images") for item in items)


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
