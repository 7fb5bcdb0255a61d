"""The Open Inference Protocol v2 as Triton speaks it: JSON, and tensors in binary behind it.

https://github.com/kserve/open-inference-protocol, and Triton's extensions binary tensor data
and model configuration.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray
from starlette.responses import Response

from vit_engine.artefact.contract import Contract, Input
from vit_engine.errors import ImageError
from vit_engine.server.core.pending_request import PendingRequest
from vit_engine.server.core.refusal import RefusalError, bad_request
from vit_engine.server.core.scheduler import Scheduler
from vit_engine.server.core.service import VERSION
from vit_engine.server.core.settings import Settings
from vit_engine.server.http.codecs.json_body import decoded
from vit_engine.server.http.codecs.open_inference_models import DATATYPES
from vit_engine.server.http.responses import FastJSONResponse

HEADER_LENGTH = "inference-header-content-length"
"""The header that says how long the JSON before binary tensors is."""

MAX_JSON = 2 * 2**20
"""Bytes of JSON: they are read on the event loop, where a number costs more than a byte does."""

_DIGITS = 10  # of a number that a request gives: more is no size


_Size = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class TensorParameters(msgspec.Struct):
    """Where the numbers of a tensor are."""

    binary_data_size: int | None = None


class InputTensor(msgspec.Struct):
    """A tensor, whose numbers are in `data` or in binary behind the JSON."""

    name: str
    shape: tuple[_Size, _Size, _Size, _Size]
    datatype: str
    data: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "array"})] | UnsetType = UNSET
    parameters: TensorParameters = msgspec.field(default_factory=TensorParameters)


class OutputParameters(msgspec.Struct):
    """How an output is to come back."""

    binary_data: bool | None = None
    classification: Annotated[int, Meta(ge=0, le=0)] = 0  # Triton's labels of each image


class RequestedOutput(msgspec.Struct):
    """An output that the client wants."""

    name: str
    parameters: OutputParameters = msgspec.field(default_factory=OutputParameters)


class RequestParameters(msgspec.Struct):
    """What holds for every output that does not say otherwise."""

    binary_data_output: bool = False


class InferBody(msgspec.Struct):
    """The JSON of an inference request."""

    # Of tuples no more is read than they may have.
    inputs: tuple[InputTensor]
    outputs: tuple[RequestedOutput] | UnsetType = UNSET
    parameters: RequestParameters = msgspec.field(default_factory=RequestParameters)
    id: Annotated[str, Meta(max_length=1024)] | None = None


_JSON = msgspec.json.Decoder(InferBody)
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])

_FLOATS = np.finfo(np.float32)
_NUMBERS: dict[str, Any] = {
    "uint8": Annotated[int, Meta(ge=0, le=255)],
    "float32": Annotated[float, Meta(ge=float(_FLOATS.min), le=float(_FLOATS.max))],
}
"""What a number of each type of tensor may be."""

_SLICE = 2**16  # numbers that go into an array at once, while no other thread runs


@dataclass(frozen=True)
class InferRequest:
    """One tensor an image, as the graph takes it, and what is to come back."""

    images: list[NDArray[Any]]
    binary: bool
    id: str | None


def parse_request(
    body: bytes, headers: Mapping[str, str], contract: Contract, settings: Settings
) -> InferRequest:
    """Read a request; RefusalError says what is wrong with it."""
    size = _json_size(body, headers)
    if size > MAX_JSON:
        raise RefusalError(
            413,
            "too_large",
            f"the JSON has {size} bytes, the limit is {MAX_JSON}: send the tensor in binary behind "
            "the JSON, as binary_data_size says",
        )
    return request_from(decoded(body[:size], _JSON), memoryview(body)[size:], contract, settings)


def request_from(
    document: InferBody, rest: memoryview, contract: Contract, settings: Settings
) -> InferRequest:
    """Return what a document asks, whose binary tensor is `rest`; RefusalError where it may not."""
    (tensor,) = document.inputs
    if tensor.name != contract.input.name:
        raise bad_request(f"the model takes exactly one input, {contract.input.name!r}")
    images, used = _tensor(tensor, rest, contract.input, settings)
    if used != len(rest):
        raise bad_request(f"{len(rest)} bytes follow the JSON, the inputs account for {used}")
    binary = document.parameters.binary_data_output
    if document.outputs is not UNSET:
        (output,) = document.outputs
        if output.name != contract.output.name:
            raise bad_request(
                f"the model has one output, {contract.output.name!r}, not {output.name[:60]!r}"
            )
        if output.parameters.binary_data is not None:
            binary = output.parameters.binary_data
    return InferRequest(list(images), binary, document.id)


def _json_size(body: bytes, headers: Mapping[str, str]) -> int:
    """Return how many bytes of a request are its JSON; tensors follow."""
    length = headers.get(HEADER_LENGTH)
    if length is None:
        return len(body)
    if not length.isdecimal() or len(length) > _DIGITS or int(length) > len(body):
        raise bad_request(
            f"Inference-Header-Content-Length is {length[:40]!r}, the body has {len(body)} bytes"
        )
    return int(length)


def _tensor(
    tensor: InputTensor, rest: memoryview, expected: Input, settings: Settings
) -> tuple[NDArray[Any], int]:
    """Return a tensor, and how many bytes of it follow the JSON."""
    shape, datatype = tensor.shape, DATATYPES[expected.dtype]
    if tensor.datatype != datatype:
        raise bad_request(
            f"datatype of {expected.name} is {tensor.datatype[:40]!r}, it must be {datatype}"
        )
    if tuple(shape[1:]) != expected.image_shape:
        raise bad_request(
            f"shape of {expected.name} is {[*shape]}, "
            f"it must be [N, {', '.join(map(str, expected.image_shape))}]"
        )
    dtype = np.dtype(expected.dtype)
    size = math.prod(shape) * dtype.itemsize
    if shape[0] > settings.max_images or size > settings.max_body:
        raise RefusalError(
            413,
            "too_large",
            f"{shape[0]} images are {size} bytes; the limits are {settings.max_images} and "
            f"{settings.max_body}",
        )
    binary = tensor.parameters.binary_data_size
    if binary is None:
        if tensor.data is UNSET:
            raise bad_request(f"{expected.name} has neither data nor binary_data_size")
        return _from_json(tensor.data, shape, expected), 0
    if tensor.data is not UNSET:
        raise bad_request(f"{expected.name} has both data and binary_data_size")
    if binary != size or size > len(rest):
        raise bad_request(
            f"the shape of {expected.name} needs {size} bytes of data, {len(rest)} are there, and "
            f"binary_data_size is {binary}"
        )
    return np.frombuffer(rest[:size], dtype.newbyteorder("<")).reshape(shape), size


@lru_cache
def _decoder(dtype: str, sizes: tuple[int, ...]) -> msgspec.json.Decoder[list[Any]]:
    """Return what reads a list of numbers, or of lists of such `sizes`."""
    kind = _NUMBERS[dtype]
    for size in reversed(sizes):
        kind = Annotated[list[kind], Meta(min_length=size, max_length=size)]  # type: ignore[valid-type]
    return msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]


def _from_json(data: msgspec.Raw, shape: tuple[int, ...], expected: Input) -> NDArray[Any]:
    """Return a tensor from numbers, flat or nested as its shape; they must fit its type."""
    where = f"data of {expected.name}"
    dtype, view = expected.dtype, memoryview(data)
    if bytes(view[1:64]).lstrip()[:1] == b"[":
        # Row by row, so that the collector of garbage never sees many lists.
        decoder = _decoder(dtype, expected.image_shape[2:])
        parts = [
            np.fromiter(chain.from_iterable(_sized(decoder, row, shape[2], where)), dtype)
            for image in _sized(_RAWS, view, shape[0], where)
            for row in _sized(_RAWS, image, shape[1], where)
        ]
    else:
        numbers = iter(_sized(_decoder(dtype, ()), view, math.prod(shape), where))
        parts = []
        while (part := np.fromiter(islice(numbers, _SLICE), dtype)).size:
            parts.append(part)
    return np.concatenate(parts).reshape(shape)


def _sized(decoder: msgspec.json.Decoder[list[Any]], data: Any, size: int, where: str) -> list[Any]:
    """Return the items of a list; RefusalError where there are not so many as `size`."""
    found = decoded(memoryview(data), decoder, at=where)
    if len(found) != size:
        raise bad_request(f"{where} has {len(found)} items at a place where its shape has {size}")
    return found


def output_of(done: PendingRequest, scheduler: Scheduler) -> tuple[dict[str, Any], NDArray[Any]]:
    """Return what the protocol says of the output, and the output (N, ...) float32."""
    # Tensors are not decoded: no image fails.
    logits = np.stack([row for row in done.results() if not isinstance(row, ImageError)])
    name = scheduler.engine.contract.output.name
    return {"name": name, "datatype": "FP32", "shape": list(logits.shape)}, logits


def answer(
    asked: InferRequest, done: PendingRequest, scheduler: Scheduler, headers: Mapping[str, str]
) -> Response:
    """Return the output of a request, in binary behind the JSON where that is wanted."""
    output, logits = output_of(done, scheduler)
    document = {"model_name": scheduler.name, "model_version": VERSION, "outputs": [output]}
    if asked.id is not None:
        document["id"] = asked.id
    if not asked.binary:
        if not np.isfinite(logits).all():
            raise RefusalError(
                422, "nonfinite", "the model gave NaN or Inf, which JSON has no word for"
            )
        rows = (msgspec.json.encode(row.tolist())[1:-1] for row in logits)
        output["data"] = msgspec.Raw(b"[%b]" % b",".join(rows))
        return FastJSONResponse(document, headers=headers)
    data = logits.astype("<f4").tobytes()
    output["parameters"] = {"binary_data_size": len(data)}
    head = msgspec.json.encode(document)
    return Response(
        head + data,
        media_type="application/octet-stream",
        headers={**headers, HEADER_LENGTH: str(len(head))},
    )
