"""Train the demo checkpoint from scratch on drawn images."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vit_engine.cli.parser import whole_number
from vit_export.checkpoints.checkpoint import DEMO
from vit_export.samples import draw

EDGE, MEAN, STD = 64, 0.5, 0.5
IMAGES, EPOCHS, BATCH = 12_288, 12, 64
HELD_OUT_IMAGES = 1_600

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


def train(*, seed: int, images: int, epochs: int) -> Any:
    """Return a `ViTForImageClassification` trained on `images` drawn images, in `eval` mode.

    The same seed gives the same weights on the same machine.
    """
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
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
    # Half the size of the held-out images: four times as fast to draw.
    pixels, targets = _drawn(images, first=draw.TRAINING, edges=(80, 160))
    steps = -(-images // BATCH) * epochs
    optimizers = _optimizers(model)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            o, [g["lr"] for g in o.param_groups], steps, pct_start=0.1, cycle_momentum=False
        )
        for o in optimizers
    ]
    started = time.monotonic()
    for epoch in range(epochs):
        losses = []
        for batch in torch.split(torch.randperm(images), BATCH):
            loss = torch.nn.functional.cross_entropy(
                model(pixel_values=_turned(pixels[batch])).logits, targets[batch]
            )
            torch.autograd.backward(loss)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            losses.append(loss.item())
        sys.stderr.write(
            f"epoch {epoch + 1}/{epochs}  loss {np.mean(losses):.4f}"
            f"  {time.monotonic() - started:.0f} s\n"
        )
    return model.eval()


def accuracy(model: Any, *, images: int) -> float:
    """Return the share of `images` held-out images, drawn at full size, that get their label."""
    pixels, targets = _drawn(images, first=draw.HELD_OUT)
    with torch.inference_mode():
        found = [model(pixel_values=part).logits.argmax(1) for part in torch.split(pixels, 256)]
    return float((torch.cat(found) == targets).double().mean())


def save(model: Any, folder: Path) -> None:
    """Write the model and its preprocessing to `folder` in the layout of the Hugging Face Hub."""
    model.save_pretrained(folder)
    preprocessing = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [MEAN] * 3,
        "image_processor_type": "ViTImageProcessor",
        "image_std": [STD] * 3,
        "resample": int(Image.Resampling.BILINEAR),
        "rescale_factor": 1 / 255,
        "size": {"height": EDGE, "width": EDGE},
    }
    text = json.dumps(preprocessing, indent=2) + "\n"
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")


def _drawn(
    count: int, *, first: int, edges: tuple[int, int] = (160, 320)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Drawn images as the model takes them, `(count, 3, EDGE, EDGE)`, and their class indices."""
    pixels = np.empty((count, EDGE, EDGE, 3), np.uint8)
    targets = torch.empty(count, dtype=torch.long)
    for i, (image, index) in enumerate(draw.samples(count, first=first, edges=edges)):
        pixels[i] = np.asarray(image.resize((EDGE, EDGE), Image.Resampling.BILINEAR))
        targets[i] = index
    scaled = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - MEAN) / STD
    return scaled.contiguous(), targets


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


def main() -> None:
    """Train, measure and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    count = whole_number("a whole number", minimum=1)
    parser.add_argument("--out", type=Path, default=DEMO)
    parser.add_argument("--seed", type=whole_number("a whole number", minimum=0), default=0)
    for name, default in (("images", IMAGES), ("epochs", EPOCHS), ("held-out", HELD_OUT_IMAGES)):
        parser.add_argument(f"--{name}", type=count, default=default, help="default: %(default)s")
    options = parser.parse_args()
    model = train(seed=options.seed, images=options.images, epochs=options.epochs)
    held_out = accuracy(model, images=options.held_out)
    save(model, options.out)
    card = CARD.format(
        parameters=sum(p.numel() for p in model.parameters()),
        labels=", ".join(draw.LABELS[:-1]) + " and " + draw.LABELS[-1],
        images=options.images,
        seed=options.seed,
        accuracy=held_out,
        held_out=options.held_out,
    )
    (options.out / "README.md").write_text(card, encoding="utf-8")
    sys.stdout.write(f"held-out accuracy {held_out:.2%} of {options.held_out}; {options.out}\n")


if __name__ == "__main__":
    main()
