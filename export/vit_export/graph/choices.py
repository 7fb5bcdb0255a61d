"""What a user chooses of the graph, each a closed set of words: its precision and its input."""

from typing import Literal

from vit_engine.artefact.contract import Input, Precision

DEFAULT_PRECISION: Precision = "fp16"

Io = Literal["uint8", "hf"]
"""Raw RGB bytes, or Hugging Face's convention: `pixel_values`, normalised by the caller."""
DEFAULT_IO: Io = "uint8"


def input_from_io(io: Io, size: int) -> Input:
    """Return the graph's one input for images of `size` pixels a side."""
    if io == "uint8":
        return Input("pixels", "uint8", "NHWC", size, size)
    return Input("pixel_values", "float32", "NCHW", size, size)
