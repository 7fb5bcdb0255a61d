"""The Open Inference Protocol v2 as Triton speaks it: JSON, and tensors in binary behind it.

https://github.com/kserve/open-inference-protocol, and Triton's extensions binary tensor data,
classification, model configuration and statistics.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from vit_engine.artefact.contract import Contract
from vit_engine.errors import ImageError
from vit_engine.server.core.metrics import Metrics
from vit_engine.server.core.scheduler import Scheduler, Ticket
from vit_engine.server.core.service import VERSION
from vit_engine.server.core.settings import Settings
from vit_engine.server.http.codecs.classification import json_of
from vit_engine.server.http.refusal import RefusalError, malformed

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "statistics")
HEADER_LENGTH = "inference-header-content-length"
"""The header that says how long the JSON before binary tensors is."""

_DATATYPES = {"uint8": "UINT8", "float32": "FP32"}

LARGE = 32 * 2**10
"""Bytes of JSON that take over a millisecond: numbers, a tensor's."""

_DIGITS = 10  # of a number that a request gives: more is no size


@dataclass(frozen=True)
class Wanted:
    """How the client wants the logits: `classes` labels of each image instead, where not 0."""

    name: str
    binary: bool
    classes: int


@dataclass(frozen=True)
class TensorRequest:
    """One tensor an image, as the graph takes it, and what is to come back."""

    images: list[NDArray[Any]]
    wanted: list[Wanted]
    id: str | None


def metadata_of(scheduler: Scheduler) -> dict[str, Any]:
    """Return a model's inputs and outputs."""
    contract = scheduler.engine.contract
    given = contract.input
    return {
        "name": scheduler.name,
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {
                "name": given.name,
                "datatype": _DATATYPES[given.dtype],
                "shape": [-1, *given.image_shape],
            }
        ],
        "outputs": [
            {
                "name": contract.output.name,
                "datatype": "FP32",
                "shape": [-1, *scheduler.engine.output.shape],
            }
        ],
    }


def config_of(scheduler: Scheduler) -> dict[str, Any]:
    """Return a model's configuration as Triton's clients read it."""
    contract = scheduler.engine.contract
    given = contract.input
    return {
        "name": scheduler.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": scheduler.engine.max_batch,
        "input": [
            {
                "name": given.name,
                "data_type": f"TYPE_{_DATATYPES[given.dtype]}",
                "dims": list(given.image_shape),
            }
        ],
        "output": [
            {
                "name": contract.output.name,
                "data_type": "TYPE_FP32",
                "dims": list(scheduler.engine.output.shape),
            }
        ],
        "dynamic_batching": {},
    }


def stats_of(scheduler: Scheduler, metrics: Metrics) -> dict[str, Any]:
    """Return what has gone through a model; durations in nanoseconds."""

    def stage(name: str) -> dict[str, int]:
        count, seconds = metrics.stage_seconds.total(scheduler.name, name)
        return {"count": count, "ns": round(seconds * 1e9)}

    queue, decode, engine = stage("queue"), stage("decode"), stage("engine")
    done = engine["count"]
    totals = {size: list(runs) for size, runs in sorted(scheduler.totals.batches.items())}
    none = {"count": 0, "ns": 0}
    return {
        "name": scheduler.name,
        "version": VERSION,
        "last_inference": round(scheduler.totals.last * 1e3),
        "inference_count": done,
        "execution_count": round(sum(runs for runs, _ in totals.values())),
        "inference_stats": {
            "success": {"count": done, "ns": queue["ns"] + decode["ns"] + engine["ns"]},
            "fail": {"count": queue["count"] - done, "ns": 0},
            "queue": queue,
            "compute_input": decode,
            "compute_infer": engine,
            "compute_output": none,
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": none,
                "compute_infer": {"count": round(runs), "ns": round(seconds * 1e9)},
                "compute_output": none,
            }
            for size, (runs, seconds) in totals.items()
        ],
    }


def json_size(body: bytes, headers: Mapping[str, str]) -> int:
    """Return how many bytes of an inference request are its JSON; tensors follow."""
    length = headers.get(HEADER_LENGTH)
    if length is None:
        return len(body)
    if not length.isdecimal() or len(length) > _DIGITS or int(length) > len(body):
        raise malformed(
            f"Inference-Header-Content-Length is {length[:40]!r}, the body has {len(body)} bytes"
        )
    return int(length)


def tensors_of(body: bytes, json: int, contract: Contract, settings: Settings) -> TensorRequest:
    """Read a request with so many bytes of JSON; RefusalError says what is wrong with it."""
    document = json_of(body[:json])
    rest = memoryview(body)[json:]
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise malformed("id must be a string")
    inputs = _objects(document, "inputs")
    name = contract.input.name
    if len(inputs) != 1 or inputs[0].get("name") != name:
        raise malformed(f"the model takes exactly one input, {name!r}")
    tensor, used = _tensor(inputs[0], rest, contract, settings)
    if used != len(rest):
        raise malformed(f"{len(rest)} bytes follow the JSON, the inputs account for {used}")
    parameters = _parameters(document)
    return TensorRequest(list(tensor), _wanted(document, parameters, contract), request_id)


def _tensor(
    given: dict[str, Any], rest: memoryview, contract: Contract, settings: Settings
) -> tuple[NDArray[Any], int]:
    """Return the input and how many bytes behind the JSON it took."""
    expected = contract.input
    datatype = _DATATYPES[expected.dtype]
    if given.get("datatype") != datatype:
        raise malformed(
            f"datatype of {expected.name} is {given.get('datatype')!r:.40}, it must be {datatype}"
        )
    shape = given.get("shape")
    one = list(expected.image_shape)
    if (
        not isinstance(shape, list)
        or len(shape) != 4
        or any(type(n) is not int or n < 1 for n in shape)
        or shape[1:] != one
    ):
        raise malformed(
            f"shape of {expected.name} is {shape!r:.100}, "
            f"it must be [N, {', '.join(map(str, one))}]"
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
    binary = _parameters(given).get("binary_data_size")
    if binary is not None:
        if "data" in given:
            raise malformed(f"{expected.name} has both data and binary_data_size")
        if type(binary) is not int or binary != size or size > len(rest):
            raise malformed(
                f"binary_data_size of {expected.name} is {binary!r:.40}, its shape needs {size} "
                f"bytes, and {len(rest)} follow the JSON"
            )
        return np.frombuffer(rest[:size], dtype.newbyteorder("<")).reshape(shape), size
    return _from_json(given.get("data"), shape, dtype, expected.name), 0


def _from_json(data: object, shape: list[int], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Return a tensor from numbers, nested as its shape or flat; they must fit its type."""
    try:
        found = np.asarray(data)
    except ValueError:  # rows of different lengths
        found = np.empty(0)
    if found.size != math.prod(shape) or (found.ndim != 1 and list(found.shape) != shape):
        raise malformed(
            f"data of {name} has the shape {list(found.shape)}, it must have {math.prod(shape)} "
            f"numbers, flat or as {shape}"
        )
    if found.dtype.kind not in ("iu" if dtype.kind == "u" else "iuf"):
        raise malformed(f"data of {name} must be numbers of {_DATATYPES[dtype.name]}")
    if dtype.kind == "u" and (found.min() < 0 or found.max() > np.iinfo(dtype).max):
        raise malformed(f"data of {name} has numbers outside 0 to {np.iinfo(dtype).max}")
    return found.astype(dtype).reshape(shape)


def _wanted(
    document: dict[str, Any], parameters: dict[str, Any], contract: Contract
) -> list[Wanted]:
    name = contract.output.name
    binary = _flag(parameters, "binary_data_output", False)
    if "outputs" not in document:
        return [Wanted(name, binary, 0)]
    wanted = []
    for output in _objects(document, "outputs"):
        if output.get("name") != name:
            raise malformed(f"the model has one output, {name!r}, not {output.get('name')!r:.60}")
        own = _parameters(output)
        classes = own.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise malformed(f"classification is {classes!r:.40}, it must be a number of labels")
        wanted.append(Wanted(name, _flag(own, "binary_data", binary), classes))
    if len(wanted) != 1:
        raise malformed(f"outputs must name {name!r} once")
    return wanted


def response_of(
    request: TensorRequest, ticket: Ticket, scheduler: Scheduler, headers: Mapping[str, str]
) -> Response:
    """Return the outputs of a request, tensors in binary behind the JSON where that is wanted."""
    logits = []
    for outcome in ticket.outcomes:
        if isinstance(outcome, RefusalError):
            raise outcome
        assert outcome is not None and not isinstance(outcome, ImageError)
        logits.append(outcome)
    labels = scheduler.engine.output.labels
    outputs, tail = [], b""
    for wanted in request.wanted:
        output, data = _output(wanted, np.stack(logits), labels)
        outputs.append(output)
        tail += data
    document: dict[str, Any] = {
        "model_name": scheduler.name,
        "model_version": VERSION,
        "outputs": outputs,
    }
    if request.id is not None:
        document["id"] = request.id
    if not any(wanted.binary for wanted in request.wanted):
        return JSONResponse(document, headers=headers)
    head = json.dumps(document, separators=(",", ":")).encode()
    return Response(
        head + tail,
        media_type="application/octet-stream",
        headers={**headers, HEADER_LENGTH: str(len(head))},
    )


def _output(
    wanted: Wanted, logits: NDArray[np.float32], labels: tuple[str, ...]
) -> tuple[dict[str, Any], bytes]:
    output: dict[str, Any] = {"name": wanted.name}
    if wanted.classes:
        count = min(wanted.classes, len(labels))
        best = np.argsort(-logits, axis=1, kind="stable")[:, :count]
        words = [
            f"{row[i]:f}:{i}:{labels[i]}"
            for row, indices in zip(logits, best.tolist(), strict=True)
            for i in indices
        ]
        output |= {"datatype": "BYTES", "shape": [len(logits), count]}
        if not wanted.binary:
            return output | {"data": words}, b""
        encoded = [word.encode() for word in words]
        data = b"".join(struct.pack("<I", len(word)) + word for word in encoded)
    else:
        output |= {"datatype": "FP32", "shape": list(logits.shape)}
        if not wanted.binary:
            if not np.isfinite(logits).all():
                raise RefusalError(
                    422, "nonfinite", "the model gave NaN or Inf, which JSON has no word for"
                )
            return output | {"data": logits.ravel().tolist()}, b""
        data = logits.astype("<f4").tobytes()
    return output | {"parameters": {"binary_data_size": len(data)}}, data


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = document.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise malformed(f"{key} must be a list of objects")
    return found


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    found = given.get("parameters", {})
    if not isinstance(found, dict):
        raise malformed("parameters must be an object")
    return found


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    found = parameters.get(name, default)
    if not isinstance(found, bool):
        raise malformed(f"{name} must be true or false")
    return found
