"""Whether a graph takes and gives what its contract says."""

from vit_engine.errors import ArtefactError
from vit_engine.outputs.kinds import output_from_contract
from vit_engine.providers.provider import Request

Tensor = tuple[str, str, list[int | str | None]]
"""An input or output of a graph: its name, NumPy's name of its type, its shape for one image."""


def check_tensors(found: list[Tensor], request: Request) -> None:
    """Raise ArtefactError unless the graph's input and output are those of the contract."""
    given, output = request.contract.input, request.contract.output
    expected = [
        (given.name, given.dtype, list(given.image_shape)),
        (output.name, "float32", list(output_from_contract(output).shape)),
    ]
    if found != expected:
        raise ArtefactError(
            f"{request.path}: its graph has inputs and outputs {found}, "
            f"its contract says {expected}; export the model again"
        )
