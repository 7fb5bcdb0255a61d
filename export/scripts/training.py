"""How a demo checkpoint is trained on drawn images, measured and written."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vit_engine.cli.parser import whole_number
from vit_export.samples import draw

EDGE = 64
"""Height and width of the images that the models take, in pixels."""

TRAINING_EDGES = (80, 160)
"""Half the size of the held-out images: four times as fast to draw."""

BATCH = 64


def pixels_of(images: Iterable[Image.Image], processor: Any) -> torch.Tensor:
    """Return the images as an image processor of transformers makes them, `(N, 3, EDGE, EDGE)`."""
    return torch.cat([processor(image, return_tensors="pt")["pixel_values"] for image in images])


def fit(
    model: torch.nn.Module,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    optimizers: list[torch.optim.Optimizer],
    *,
    images: int,
    epochs: int,
) -> None:
    """Train `model` on the loss of each batch of places of images; leave it in `eval` mode.

    The same seed of PyTorch gives the same weights on the same machine.
    """
    steps = -(-images // BATCH) * epochs
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
            loss = loss_of(batch)
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
    model.eval()


def make_demo(
    description: str,
    folder: Path,
    *,
    train: Callable[[int, int], Any],
    images: int,
    epochs: int,
    accuracy: Callable[[Any, int], float],
    preprocessing: dict[str, Any],
    card: str,
    parts: Callable[[], Iterable[Any]] = tuple,
) -> None:
    """Read the command line; train, measure and write a checkpoint, in the layout of the Hub.

    `train` takes the numbers of images and epochs, `accuracy` a number of held-out images; `parts`
    are saved beside the model.
    """
    parser = argparse.ArgumentParser(description=description)
    count = whole_number("a whole number", minimum=1)
    parser.add_argument("--out", type=Path, default=folder)
    parser.add_argument("--seed", type=whole_number("a whole number", minimum=0), default=0)
    for name, default in (("images", images), ("epochs", epochs), ("held-out", 1_600)):
        parser.add_argument(f"--{name}", type=count, default=default, help="default: %(default)s")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = train(options.images, options.epochs)
    held_out = accuracy(model, options.held_out)
    for part in (model, *parts()):
        part.save_pretrained(options.out)
    text = json.dumps(preprocessing, indent=2) + "\n"
    (options.out / "preprocessor_config.json").write_text(text, encoding="utf-8")
    card = card.format(
        parameters=sum(p.numel() for p in model.parameters()),
        labels=", ".join(draw.LABELS[:-1]) + " and " + draw.LABELS[-1],
        images=options.images,
        seed=options.seed,
        accuracy=held_out,
        held_out=options.held_out,
    )
    (options.out / "README.md").write_text(card, encoding="utf-8")
    sys.stdout.write(f"held-out accuracy {held_out:.2%} of {options.held_out}; {options.out}\n")
