"""What a graph takes and gives: its input from pixels, and both held against its contract."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Contract, Preprocessing
from vit_engine.errors import ArtefactError
from vit_engine.outputs.kinds import output_from_contract
from vit_engine.providers.provider import SessionSpec

Tensor = tuple[str, str, list[int | str | None]]
"""An input or output of a graph: its name, NumPy's name of its type, its shape for one image."""


def check_tensors(found: list[Tensor], spec: SessionSpec) -> None:
    """Raise ArtefactError unless the graph's input and output are those of the contract."""
    input_spec, output = spec.contract.input, spec.contract.output
    expected = [
        (input_spec.name, input_spec.dtype, list(input_spec.image_shape)),
        (output.name, "float32", list(output_from_contract(output).shape)),
    ]
    if found != expected:
        raise ArtefactError(
            f"{spec.path}: its graph has inputs and outputs {found}, "
            f"its contract says {expected}; export the model again"
        )


def feed_from_pixels(pixels: NDArray[np.uint8], contract: Contract) -> NDArray[Any]:
    """Return RGB images (N, H, W, 3) as the contract's input wants them."""
    if contract.input.dtype == "uint8":
        return pixels
    return normalized(pixels, contract.preprocessing)


def normalized(batch: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return float32 NCHW for a graph that takes normalised input; `batch` is uint8 NHWC.

    One table per channel, rounded where `ViTImageProcessorPil` rounds, so equal to it to the bit.
    """
    scaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    out = np.empty((batch.shape[0], 3, *batch.shape[1:3]), np.float32)
    for c, (mean, std) in enumerate(zip(preprocessing.mean, preprocessing.std, strict=True)):
        table = (scaled - np.float32(mean)) / np.float32(std)
        np.take(table, batch[..., c], out=out[:, c])
    return out
