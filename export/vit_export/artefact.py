"""Writes an ONNX model and its contract as one file, whole or not at all."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import onnx
from onnxscript import ir
from PIL import Image

import vit_engine
from vit_engine.artefact.contract import Contract, EmbeddingOutput, Identity, Output, Precision
from vit_engine.artefact.integrity import content_sha256, copy_with_contract, metadata_entry
from vit_engine.artefact.metadata import read_contract
from vit_engine.artefact.text_contract import TextContract
from vit_engine.errors import CheckpointError, ParityError
from vit_engine.machine.atomic import replacing
from vit_engine.outputs.embeddings import Embeddings
from vit_engine.outputs.kinds import OutputKind
from vit_engine.outputs.parity import BOUNDS, Bounds
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.graph.choices import DEFAULT_IO, Io, input_from_io
from vit_export.graph.layers import Linear
from vit_export.graph.model import EMBEDDING, LOGITS, model_from_checkpoint
from vit_export.quantization.pipeline import Quantized
from vit_export.verify import parity_of

MAX_BYTES = 2**31 - 1
"""Of a serialised ONNX model: protobuf's limit to one message."""


def export(
    checkpoint: Checkpoint,
    path: Path,
    *,
    precision: Precision,
    io: Io = DEFAULT_IO,
    images: Iterable[Image.Image] | None,
    bounds: Bounds | None = None,
    quantized: Quantized | None = None,
    report: Callable[[str], None] = lambda _words: None,
    detail: Callable[[str], None] = lambda _words: None,
) -> Contract:
    """Write a checkpoint's artefact to `path` and return its contract.

    It is held against eager PyTorch on `images` first, within `bounds` or else the precision's own,
    and ParityError leaves nothing behind; with None it is not, and the contract says so.
    `quantized` is the checkpoint quantised, for int8 and for it alone; `report` is told in a
    line what labels it keeps, `detail` all that is known of it.
    """
    assert (quantized is not None) == (precision == "int8")
    model = model_from_checkpoint(
        quantized.checkpoint if quantized else checkpoint,
        precision=precision,
        io=io,
        linear=quantized.linear if quantized else Linear,
    )
    contract = contract_from_checkpoint(checkpoint, precision=precision, io=io)
    if quantized:
        contract = replace(contract, calibration=quantized.calibration)
    with replacing(path) as temporary:
        write(model, contract.identity.precision, temporary)
        bare = temporary.stat().st_size
        write_metadata(temporary, contract, bare)
        # Of the bytes: given a path, the checker takes only one that is UTF-8.
        onnx.checker.check_model(temporary.read_bytes(), full_check=True)
        if images is not None:
            try:
                parity = parity_of(
                    temporary,
                    checkpoint,
                    images,
                    bounds or BOUNDS[precision],
                    report=report,
                    detail=detail,
                )
            except ParityError as e:
                if quantized is None:
                    raise
                raise ParityError(f"{e}; {quantized.most_sensitive()}") from e
            contract = replace(contract, parity=parity)
        return write_metadata(temporary, contract, bare)


def contract_from_checkpoint(checkpoint: Checkpoint, *, precision: Precision, io: Io) -> Contract:
    """Return the contract of an artefact whose parity nobody has measured yet."""
    return Contract(
        identity=identity_of(checkpoint, precision),
        input=input_from_io(io, checkpoint.model_config.image_size),
        preprocessing=checkpoint.preprocessing,
        output=_output(checkpoint.output),
        parity=None,
        zero_shot=checkpoint.zero_shot,
    )


def identity_of(checkpoint: Checkpoint, precision: Precision) -> Identity:
    """Return where an artefact of a checkpoint comes from."""
    return Identity(
        model=checkpoint.model,
        revision=checkpoint.revision,
        weights_sha256=checkpoint.weights_sha256,
        precision=precision,
        exporter=f"vit-engine {vit_engine.__version__}",
    )


def _output(kind: OutputKind) -> Output | EmbeddingOutput:
    if isinstance(kind, Embeddings):
        return EmbeddingOutput(EMBEDDING, kind.size, kind.pooling, kind.normalized, kind.space)
    return Output(LOGITS, kind.labels, kind.function)


def write(model: ir.Model, precision: Precision, path: Path) -> None:
    """Write the model without a contract; CheckpointError if one ONNX file cannot hold it."""
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    if size > MAX_BYTES:
        fix = "; export with --fp16" if precision == "fp32" else ""
        raise CheckpointError(
            f"the {precision} weights take {size / 2**30:.1f} GiB, an ONNX file holds at most "
            f"2 GiB{fix}"
        )
    ir.save(model, path)


C = TypeVar("C", Contract, TextContract)


def write_metadata(path: Path, contract: C, size: int) -> C:
    """Put a contract behind the model's `size` bytes, in place of any other; return it whole."""
    with path.open("r+b") as file:
        file.truncate(size)  # fields of a protobuf message may stand in any order
        file.seek(size)
        contract = replace(contract, content_sha256=content_sha256(path, contract))
        file.write(metadata_entry(contract.key, contract.dumps()))
    return contract


def rewrite_metadata(path: Path) -> None:
    """Have the contract in a file vouch for the file as it is now, after a change to its graph.

    A contract without a sha256, as older exporters wrote them, stays as it is.
    """
    contract = read_contract(path)
    if contract.content_sha256 is not None:
        copy_with_contract(path, contract, path)
