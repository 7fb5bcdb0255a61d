"""The description of the routes that programs read: OpenAPI 3.1."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec

import vit_engine
from vit_engine.outputs.prediction import Score
from vit_engine.server.core.service import VERSION
from vit_engine.server.core.settings import Settings
from vit_engine.server.http.codecs.classification import ClassifyBody, Parameters, Row
from vit_engine.server.http.codecs.open_inference import InferBody

_STATUSES = {
    400: "The request is malformed",
    401: "A key is needed",
    404: "No such model",
    408: "The body was late",
    413: "Too many bytes, files or pixels",
    415: "Content-Encoding that is not read",
    422: "The image cannot be labelled; error_code is that of vit-infer",
    429: "Too busy: see Retry-After",
    500: "The engine failed",
    503: "Loading, draining or dead",
    504: "No answer within the deadline",
}
_SCHEMAS = "#/components/schemas/"

JSON = "application/json"
BINARY = "application/octet-stream"


class Error(TypedDict):
    """What every refusal is answered with."""

    error: str
    error_code: str


@dataclass(frozen=True)
class Operation:
    """One method of one path, and who answers it, whose docstring describes it.

    A POST may be refused with any status, a GET with `statuses`.
    """

    method: str
    path: str
    endpoint: Callable[..., Any]
    statuses: tuple[int, ...] = tuple(_STATUSES)
    media: tuple[str, ...] = (JSON,)


def document(operations: Iterable[Operation], settings: Settings, models: list[str]) -> Any:
    """Return the description of a server of these models."""
    known = {"name": models, "version": [VERSION]}
    paths: dict[str, Any] = {}
    for operation in operations:
        names = re.findall(r"{(\w+)}", operation.path)
        parameters = [
            {"name": n, "in": "path", "required": True, "schema": {"enum": known[n]}} for n in names
        ]
        path = paths.setdefault(operation.path, {"parameters": parameters} if names else {})
        path[operation.method.lower()] = _described(operation, settings, models)
    _, schemas = msgspec.json.schema_components(
        [Score, Row, Error, ClassifyBody, InferBody], ref_template=_SCHEMAS + "{name}"
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "vit-serve", "version": vit_engine.__version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}] if settings.keys else [],
    }


def _described(operation: Operation, settings: Settings, models: list[str]) -> dict[str, Any]:
    summary = (operation.endpoint.__doc__ or "").rstrip(".")
    content: dict[str, Any] = {media: {} for media in operation.media}
    found: dict[str, Any] = {"summary": summary}
    if operation.method == "POST":
        if operation.path.endswith("/infer"):
            bodies = {JSON: _schema("InferBody"), BINARY: {}}
            answer: dict[str, Any] = {"type": "object", "required": ["model_name", "outputs"]}
        else:
            bodies = _images(settings)
            answer = {"anyOf": [{"type": "array", "items": _ref(n)} for n in ("Score", "Row")]}
            found["parameters"] = _query(models)
        found["requestBody"] = {"required": True, "content": bodies}
        content[JSON] = {"schema": answer}
    found["responses"] = {
        "200": {"description": summary, "content": content},
        **{
            str(status): {"description": _STATUSES[status], "content": {JSON: _schema("Error")}}
            for status in operation.statuses
        },
    }
    return found


def _images(settings: Settings) -> dict[str, Any]:
    """Return the bodies that hold images."""
    files = {
        "type": "array",
        "minItems": 1,
        "maxItems": settings.max_files,
        "items": {"type": "string", "contentMediaType": "image/*"},
    }
    form = {"type": "object", "required": ["file"], "properties": {"file": files}}
    return {
        BINARY: {},
        "image/*": {},
        JSON: _schema("ClassifyBody"),
        "multipart/form-data": {"schema": form},
    }


def _query(models: list[str]) -> list[dict[str, Any]]:
    """Return the parameters of a query: the model, and those of the JSON."""
    given = msgspec.json.schema(Parameters)["$defs"]["Parameters"]["properties"]
    model = {"enum": models, "description": "Which model; the first one without it"}
    return [{"name": n, "in": "query", "schema": s} for n, s in {"model": model, **given}.items()]


def _schema(name: str) -> dict[str, Any]:
    return {"schema": _ref(name)}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _SCHEMAS + name}
