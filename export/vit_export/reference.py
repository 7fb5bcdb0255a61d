"""A checkpoint as PyTorch runs it, on pixels that the runtime has made."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Contract
from vit_engine.errors import UsageError, printable
from vit_engine.outputs.kinds import OutputKind
from vit_export.checkpoints.checkpoint import load
from vit_export.eager import BATCH, eager_model

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def opened(name: str, contract: Contract) -> tuple[Run, OutputKind]:
    """Return what turns pixels (N, H, W, 3) into a checkpoint's outputs (N, ...), and their kind.

    UsageError where its pixels are others than those of `contract`.
    """
    import torch

    checkpoint = load(name)
    pre, other = checkpoint.preprocessing, contract.preprocessing
    for name_of_part in ("rule", "resize", "filter", "crop", "anchor", "fill"):
        a, b = getattr(other, name_of_part), getattr(pre, name_of_part)
        if a != b:
            raise UsageError(
                f"--against pytorch:{printable(name)}: its {name_of_part} is {b}, the model's is "
                f"{a}; two models are compared on the same pixels"
            )
    model = eager_model(checkpoint)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (pre.mean, pre.std))

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = []
        with torch.inference_mode():
            for i in range(0, len(pixels), BATCH):
                part = torch.from_numpy(pixels[i : i + BATCH].astype(np.float32))
                values = (part.permute(0, 3, 1, 2) / 255 - mean) / std
                found.append(model(values).numpy())
        return np.concatenate(found)

    return run, checkpoint.output
