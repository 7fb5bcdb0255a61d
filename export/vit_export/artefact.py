"""Writes an ONNX model and its contract as one file, whole or not at all."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import onnx
from onnxscript import ir
from PIL import Image

from vit_engine.artefact.contract import KEY, Contract, Identity, Output
from vit_engine.errors import CheckpointError, ParityError, ProviderError
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.graph.choices import DEFAULT_IO, Io, Precision, input_from_io
from vit_export.graph.layers import Linear
from vit_export.graph.model import OUTPUT, model_from_checkpoint
from vit_export.quantization.recipe import Quantized
from vit_export.verify import BOUNDS, Bounds, parity_of

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
        write(model, contract, temporary)
        onnx.checker.check_model(temporary, full_check=True)
        if images is not None:
            try:
                parity = parity_of(temporary, checkpoint, images, bounds or BOUNDS[precision])
            except ParityError as e:
                if rounded is None:
                    raise
                raise ParityError(f"{e}; {rounded.most_sensitive()}") from e
            contract = replace(contract, parity=parity)
            write(model, contract, temporary)
    return contract


def contract_from_checkpoint(checkpoint: Checkpoint, *, precision: Precision, io: Io) -> Contract:
    """Return the contract of an artefact whose parity nobody has measured yet."""
    return Contract(
        identity=Identity(
            model=checkpoint.model,
            revision=checkpoint.revision,
            weights_sha256=checkpoint.weights_sha256,
            precision=precision,
            exporter=f"vit-engine {version('vit-engine')}",
        ),
        input=input_from_io(io, checkpoint.form.image_size),
        preprocessing=checkpoint.preprocessing,
        output=Output(OUTPUT, checkpoint.labels),
        parity=None,
    )


def write(model: ir.Model, stamp: Contract, path: Path) -> None:
    """Write the model to `path` with `stamp` as its one metadata entry of ours.

    CheckpointError if it is over the 2 GiB that one ONNX file can hold.
    """
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    if size > MAX_BYTES:
        raise CheckpointError(
            f"{stamp.identity.precision} weights are {size / 2**30:.1f} GiB, one ONNX file holds "
            "2 GiB at most; export with --fp16"
        )
    model.metadata_props[KEY] = stamp.dumps()
    ir.save(model, path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new name beside `path`; it takes `path`'s place at the end, or is removed on failure.

    ProviderError where the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
    except OSError as e:
        raise ProviderError(f"{path}: cannot be written ({e.strerror})") from e
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
