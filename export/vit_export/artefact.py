"""Writes an ONNX model and its contract as one file, whole or not at all."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import onnx
from onnxscript import ir
from PIL import Image

import vit_engine
from vit_engine.artefact.contract import KEY, Contract, Identity, Input, Output, Precision
from vit_engine.artefact.integrity import content_sha256
from vit_engine.artefact.nodes import ENTRY_KEY, ENTRY_VALUE, MODEL_METADATA
from vit_engine.artefact.protobuf import field
from vit_engine.atomic import replacing
from vit_engine.errors import CheckpointError, ParityError
from vit_engine.parity import BOUNDS, Bounds
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.graph.vit import INPUTS, Linear, model_from_checkpoint
from vit_export.quantization.recipe import Quantized
from vit_export.verify import parity_of

MAX_BYTES = 2**31 - 1
"""Of a serialised ONNX model: protobuf's limit to one message."""


def export(
    checkpoint: Checkpoint,
    path: Path,
    *,
    precision: str,
    io: str = "uint8",
    images: Iterable[Image.Image] | None,
    bounds: Bounds | None = None,
    rounded: Quantized | None = None,
) -> Contract:
    """Write a checkpoint's artefact to `path` and return its contract.

    It is held against eager PyTorch on `images` first, within `bounds` or else the precision's own,
    and ParityError leaves nothing behind; with None it is not, and the contract says so. `rounded`
    is the checkpoint quantised, for int8 and for it alone.
    """
    assert (rounded is not None) == (precision == "int8")
    model = model_from_checkpoint(
        rounded.checkpoint if rounded else checkpoint,
        precision=precision,
        io=io,
        linear=rounded.linear if rounded else Linear,
    )
    contract = contract_from_checkpoint(checkpoint, precision=precision, io=io)
    if rounded:
        contract = replace(contract, calibration=rounded.calibration)
    with replacing(path) as temporary:
        write(model, contract.identity.precision, temporary)
        bare = temporary.stat().st_size
        stamp(temporary, contract, bare)
        onnx.checker.check_model(temporary, full_check=True)
        if images is not None:
            try:
                parity = parity_of(temporary, checkpoint, images, bounds or BOUNDS[precision])
            except ParityError as e:
                if rounded is None:
                    raise
                raise ParityError(f"{e}; {rounded.most_sensitive()}") from e
            contract = replace(contract, parity=parity)
        return stamp(temporary, contract, bare)


def contract_from_checkpoint(checkpoint: Checkpoint, *, precision: str, io: str) -> Contract:
    """Return the contract of an artefact whose parity nobody has measured yet."""
    size = checkpoint.architecture.image_size
    dtype, layout = {"uint8": ("uint8", "NHWC"), "hf": ("float32", "NCHW")}[io]
    return Contract(
        identity=Identity(
            model=checkpoint.model,
            revision=checkpoint.revision,
            weights_sha256=checkpoint.weights_sha256,
            precision=precision,
            exporter=f"vit-engine {vit_engine.__version__}",
        ),
        input=Input(INPUTS[io], dtype, layout, size, size),
        preprocessing=checkpoint.preprocessing,
        output=Output("logits", checkpoint.labels),
        parity=None,
    )


def write(model: ir.Model, precision: Precision, path: Path) -> None:
    """Write the model without a contract; CheckpointError if one ONNX file cannot hold it."""
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    if size > MAX_BYTES:
        raise CheckpointError(
            f"{precision} weights are {size / 2**30:.1f} GiB, one ONNX file holds "
            "2 GiB at most; export with --fp16"
        )
    ir.save(model, path)


def stamp(path: Path, contract: Contract, size: int) -> Contract:
    """Put a contract behind the model's `size` bytes, in place of any other; return it whole."""
    with path.open("r+b") as file:
        file.truncate(size)  # fields of a protobuf message may stand in any order
        file.seek(size)
        contract = replace(contract, content_sha256=content_sha256(path, contract))
        entry = field(ENTRY_KEY, KEY) + field(ENTRY_VALUE, contract.dumps())
        file.write(field(MODEL_METADATA, entry))
    return contract
