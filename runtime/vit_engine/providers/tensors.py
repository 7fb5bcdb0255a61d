"""Whether a graph takes and gives what its contract says."""

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
