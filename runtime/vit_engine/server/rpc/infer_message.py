"""ModelInfer's messages, which are read as the protocol's JSON with binary tensors is."""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from vit_engine.artefact.contract import Contract, Input
from vit_engine.server.core.pending_request import PendingRequest
from vit_engine.server.core.refusal import RefusalError, bad_request
from vit_engine.server.core.scheduler import Scheduler
from vit_engine.server.core.service import VERSION
from vit_engine.server.core.settings import Settings
from vit_engine.server.http.codecs.open_inference import (
    InferBody,
    InferRequest,
    output_of,
    request_from,
)

_FIELDS = {"uint8": "uint_contents", "float32": "fp32_contents"}
"""Where InferTensorContents has the numbers of each type."""

_FIELDS_OF_A_MESSAGE = 64
_SIZE = 2**20  # bytes of a message besides raw contents, which cost more to read than those
_RAW = service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_FIXED = {1: 8, 5: 4}  # bytes of a field by its wire type

_SLICE = 2**16  # numbers that are read at once, while no other thread runs


def check_fields(body: bytes) -> None:
    """Raise RefusalError where reading a message would take long, while no other thread runs."""
    at = fields = size = 0
    try:
        while at < len(body) and fields <= _FIELDS_OF_A_MESSAGE and size <= _SIZE:
            key, start = _varint(body, at)
            number, kind = key >> 3, key & 7
            length, at = _varint(body, start) if kind in (0, 2) else (_FIXED[kind], start)
            at += length if kind else 0
            fields += 1
            size += length if kind and number != _RAW else 0
    except (IndexError, KeyError):
        raise bad_request("the message is no protobuf") from None
    if fields > _FIELDS_OF_A_MESSAGE or size > _SIZE:
        raise RefusalError(
            413,
            "too_large",
            f"the message has more than {_FIELDS_OF_A_MESSAGE} fields, or {_SIZE} bytes besides "
            "raw_input_contents: send the tensor there",
        )


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """Return a number of the wire format, and where it ends."""
    found = shift = 0
    while True:
        byte = body[at]
        found |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128 or shift > 63:
            return found, at


def parse_message(message: Any, contract: Contract, settings: Settings) -> InferRequest:
    """Read a ModelInferRequest; RefusalError says what is wrong with it."""
    raw = message.raw_input_contents
    if len(message.inputs) != 1 or len(raw) > 1 or len(message.outputs) > 1:
        raise bad_request(
            f"the model takes exactly one input, {contract.input.name!r}, and has one output"
        )
    (tensor,) = message.inputs
    data = raw[0] if raw else _from_contents(tensor.contents, contract.input).tobytes()
    document: dict[str, Any] = {
        "id": message.id or None,
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape[:8]),
                "parameters": {"binary_data_size": len(data)},
            }
        ],
    }
    if message.outputs:
        (output,) = message.outputs
        document["outputs"] = [{"name": output.name, "parameters": _parameters(output)}]
    try:
        body = msgspec.convert(document, InferBody)
    except msgspec.ValidationError as e:
        raise bad_request(str(e)[:200]) from None
    return request_from(body, memoryview(data), contract, settings)


def _parameters(output: Any) -> dict[str, Any]:
    found = {name: p.WhichOneof("parameter_choice") for name, p in output.parameters.items()}
    return {
        name: getattr(output.parameters[name], choice) for name, choice in found.items() if choice
    }


def _from_contents(contents: Any, expected: Input) -> NDArray[Any]:
    numbers = getattr(contents, _FIELDS[expected.dtype])
    wide = np.uint32 if expected.dtype == "uint8" else np.float32
    starts = range(0, len(numbers), _SLICE)
    found = [np.array(numbers[start : start + _SLICE], wide) for start in starts]
    tensor = np.concatenate(found) if found else np.empty(0, wide)
    if wide is np.uint32 and (tensor > np.iinfo(np.uint8).max).any():
        raise bad_request(f"contents of {expected.name} have numbers that are no uint8")
    return tensor.astype(expected.dtype)


def message_of(asked: InferRequest, done: PendingRequest, scheduler: Scheduler) -> Any:
    """Return a ModelInferResponse, its output in binary."""
    output, logits = output_of(done, scheduler)
    return service_pb2.ModelInferResponse(
        model_name=scheduler.name,
        model_version=VERSION,
        id=asked.id or "",
        outputs=[output],
        raw_output_contents=[logits.astype("<f4").tobytes()],
    )
