"""Train the demo checkpoint from scratch on drawn images."""

from typing import Any

import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from training import EDGE, TRAINING_EDGES, fit, make_demo, pixels_of
from vit_export.checkpoints.checkpoint import DEMOS
from vit_export.samples import draw

PREPROCESSING: dict[str, Any] = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5] * 3,
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5] * 3,
    "resample": int(Image.Resampling.BILINEAR),
    "rescale_factor": 1 / 255,
    "size": {"height": EDGE, "width": EDGE},
}

CARD = """\
---
library_name: transformers
pipeline_tag: image-classification
license: apache-2.0
---
# Shapes and textures

A ViT of {parameters:,} parameters that tells apart
{labels}.

Trained from scratch on {images:,} images drawn by `vit_export/samples/draw.py`, with seed {seed}.

Held-out accuracy: {accuracy:.2%} of {held_out:,} images. To make it again:
`python export/scripts/train_demo.py --seed {seed}`.
"""


def train(images: int, epochs: int) -> Any:
    """Return a `ViTForImageClassification` trained on `images` drawn images, in `eval` mode."""
    model: Any = ViTForImageClassification(
        ViTConfig(
            image_size=EDGE,
            patch_size=8,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=256,
            id2label=dict(enumerate(draw.LABELS)),
            label2id={label: index for index, label in enumerate(draw.LABELS)},
        )
    )
    pixels, targets = _drawn(images, first=draw.TRAINING, edges=TRAINING_EDGES)

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        logits = model(pixel_values=_turned(pixels[batch])).logits
        return torch.nn.functional.cross_entropy(logits, targets[batch])

    fit(model, loss_of, _optimizers(model), images=images, epochs=epochs)
    return model


def accuracy(model: Any, images: int) -> float:
    """Return the share of `images` held-out images, drawn at full size, that get their label."""
    pixels, targets = _drawn(images, first=draw.HELD_OUT)
    with torch.inference_mode():
        found = [model(pixel_values=part).logits.argmax(1) for part in torch.split(pixels, 256)]
    return float((torch.cat(found) == targets).double().mean())


def _drawn(
    count: int, *, first: int, edges: tuple[int, int] = (160, 320)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Drawn images as the model takes them, and their class indices."""
    drawn = (image for image, _ in draw.samples(count, first=first, edges=edges))
    pixels = pixels_of(drawn, ViTImageProcessorPil(**PREPROCESSING))
    return pixels, torch.arange(count) % len(draw.LABELS)


def _turned(pixels: torch.Tensor) -> torch.Tensor:
    """Mirror each image or not, along either axis and the diagonal: every class stays itself."""
    chosen = torch.rand(3, len(pixels), 1, 1, 1) < 0.5
    pixels = torch.where(chosen[0], torch.flip(pixels, (2,)), pixels)
    pixels = torch.where(chosen[1], torch.flip(pixels, (3,)), pixels)
    return torch.where(chosen[2], pixels.mT, pixels)


def _optimizers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the rest."""
    named = list(model.named_parameters())
    inside = [p for name, p in named if ".layer" in name and p.ndim == 2]
    rest = [p for name, p in named if ".layer" not in name or p.ndim != 2]
    return [
        torch.optim.Muon(inside, lr=0.02, weight_decay=0.05),
        torch.optim.AdamW(rest, lr=2e-3, weight_decay=0.01),
    ]


if __name__ == "__main__":
    make_demo(
        str(__doc__),
        DEMOS["demo"],
        train=train,
        images=12_288,
        epochs=12,
        accuracy=accuracy,
        preprocessing=PREPROCESSING,
        card=CARD,
    )
