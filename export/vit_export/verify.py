"""Holds an artefact against eager PyTorch, image by image, through the runtime's own engine."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vit_engine.artefact.contract import Parity
from vit_engine.engine import Engine
from vit_engine.errors import ImageError, UsageError, printable
from vit_engine.images.decode import image_from_item
from vit_engine.images.preprocess import pixels_from_image, rgb_from_image
from vit_engine.parity import Bounds, Logits, check_parity
from vit_engine.sources.find import items_from_sources
from vit_engine.sources.item import Item
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.demo import draw

EAGER_BATCH = 8  # images in PyTorch's memory at once


def verification_images(
    sources: Iterable[str] | None, *, drawn: int = len(draw.LABELS)
) -> Iterator[Image.Image]:
    """Yield the images of the sources; with None, `drawn` drawn ones and black, white and noise."""
    if sources is not None:
        for item in items_from_sources(sources):
            yield opened(item, "--verify-images")
        return
    yield from (image for image, _ in draw.samples(drawn))
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    for array in (np.zeros_like(noise), np.full_like(noise, 255), noise):
        yield Image.fromarray(array)


def opened(item: Item, option: str) -> Image.Image:
    """Return the image that the command's `option` led to; UsageError where it cannot be read."""
    try:
        return image_from_item(item)
    except ImageError as e:
        raise UsageError(f"{option}: {printable(item.path)} {e}") from e


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
    import torch
    import transformers

    difference = np.abs(found - expected)
    return Parity(
        reference=f"transformers {transformers.__version__}, torch {torch.__version__}, "
        "eager fp32 on the CPU",
        images=len(expected),
        top1_agreement=float((found.argmax(1) == expected.argmax(1)).mean()),
        max_abs_diff=float(difference.max()),
        mean_abs_diff=float(difference.mean()),
        logit_range=float(np.ptp(expected)),
    )


def eager_logits(checkpoint: Checkpoint, images: list[Image.Image]) -> Logits:
    """Return the logits (N, labels) of transformers' own model and processor, fp32 on the CPU."""
    import torch

    model, processor = eager_model(checkpoint.folder)
    logits = []
    with torch.inference_mode():
        for i in range(0, len(images), EAGER_BATCH):
            batch = processor(images=images[i : i + EAGER_BATCH], return_tensors="pt")
            logits.append(model(**batch).logits.numpy())
    return np.concatenate(logits)


def eager_model(folder: Path) -> tuple[Any, Any]:
    """Return transformers' own model (fp32, eager attention) and its PIL image processor."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    pil = {"use_fast": False} if transformers.__version__.startswith("4.") else {"backend": "pil"}
    processor = transformers.AutoImageProcessor.from_pretrained(
        folder, local_files_only=True, **pil
    )
    model = transformers.ViTForImageClassification.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, attn_implementation="eager"
    )
    model.eval()
    return model, processor
