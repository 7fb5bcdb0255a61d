"""A checkpoint as PyTorch runs it, on pixels that the runtime has made."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Contract, EmbeddingOutput, Output
from vit_engine.errors import UsageError, printable
from vit_engine.outputs.kinds import OutputKind
from vit_export.checkpoints.checkpoint import VectorOptions, load
from vit_export.eager import BATCH, eager_model
from vit_export.zero_shot import labelled

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def opened(name: str, contract: Contract) -> tuple[Run, OutputKind]:
    """Return what turns pixels (N, H, W, 3) into a checkpoint's outputs (N, ...), and their kind.

    It gives what `contract` tells of: labels, its own or zero-shot ones, or vectors. UsageError
    where its pixels are others.
    """
    import torch

    output, made = contract.output, contract.zero_shot
    vectors = VectorOptions() if made else None
    if isinstance(output, EmbeddingOutput):
        vectors = VectorOptions(output.pooling, output.normalized)
    checkpoint = load(name, vectors=vectors)
    if made and isinstance(output, Output):
        checkpoint = labelled(checkpoint, output.labels, made.templates)
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
