"""The description of the routes that programs read: OpenAPI 3.1."""

from collections.abc import Iterable
from typing import Any, TypedDict

import msgspec
from starlette.routing import Route

import vit_engine
from vit_engine.outputs.prediction import Score
from vit_engine.server.core.service import VERSION
from vit_engine.server.core.settings import Settings
from vit_engine.server.http.codecs.classification import ClassifyBody, Parameters
from vit_engine.server.http.codecs.open_inference import InferBody
from vit_engine.server.http.codecs.openai_embeddings import EmbeddingsBody

_SCHEMAS = "#/components/schemas/"

JSON = "application/json"
BINARY = "application/octet-stream"

_MEDIA = {
    ("GET", "root"): (JSON, "text/html"),
    ("GET", "docs"): ("text/html",),
    ("GET", "metrics"): ("text/plain",),
    ("POST", "infer"): (JSON, BINARY),
}
"""What is answered with by method and endpoint, where it is not JSON alone."""


class Error(TypedDict):
    """What every refusal is answered with."""

    error: str
    error_code: str


def document(routes: Iterable[Route], settings: Settings, models: list[str]) -> Any:
    """Return the description of a server of these models; endpoints have docstrings."""
    known = {"name": models, "version": [VERSION]}
    paths: dict[str, Any] = {}
    for route in routes:
        paths[route.path] = {
            "parameters": [
                {"name": n, "in": "path", "required": True, "schema": {"enum": known[n]}}
                for n in route.param_convertors
            ]
        }
        for method in sorted({*(route.methods or ())} - {"HEAD"}):
            paths[route.path][method.lower()] = _described(method, route, settings, models)
    _, schemas = msgspec.json.schema_components(
        [Score, Error, ClassifyBody, EmbeddingsBody, InferBody], ref_template=_SCHEMAS + "{name}"
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


def _described(method: str, route: Route, settings: Settings, models: list[str]) -> dict[str, Any]:
    summary = (route.endpoint.__doc__ or "").rstrip(".")
    content: dict[str, Any] = {media: {} for media in _MEDIA.get((method, route.name), (JSON,))}
    found: dict[str, Any] = {"summary": summary}
    if method == "POST":
        if route.name == "infer":
            bodies = {JSON: _schema("InferBody"), BINARY: {}}
            answer: dict[str, Any] = {"type": "object", "required": ["model_name", "outputs"]}
        elif route.name == "embeddings":
            bodies = {JSON: _schema("EmbeddingsBody")}
            answer = {"type": "object", "required": ["data", "model", "space"]}
        else:
            bodies = _images(settings)
            # Rows of several images are as vit-infer's.
            answer = {
                "type": "array",
                "items": {"anyOf": [_ref("Score"), {"type": "object"}, {"type": "number"}]},
            }
            found["parameters"] = _query(models)
        found["requestBody"] = {"required": True, "content": bodies}
        content[JSON] = {"schema": answer}
    found["responses"] = {
        "200": {"description": summary, "content": content},
        "default": {"description": "A refusal", "content": {JSON: _schema("Error")}},
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
