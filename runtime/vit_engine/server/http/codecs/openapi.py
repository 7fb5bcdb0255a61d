"""The description of the routes that programs read: OpenAPI 3.1."""

from typing import Any

import vit_engine
from vit_engine.outputs.scores import DEFAULT_TOP_K
from vit_engine.server.core.service import VERSION
from vit_engine.server.core.settings import Settings
from vit_engine.server.http.codecs.classification import FUNCTIONS

_SCORE = {
    "type": "object",
    "required": ["label", "score", "index"],
    "properties": {
        "label": {"type": "string"},
        "score": {"type": "number"},
        "index": {"type": "integer", "minimum": 0},
    },
}
_ROW = {
    "type": "object",
    "required": ["path", "label", "index", "score", "topk", "error", "error_code"],
    "properties": {
        "path": {"type": ["string", "null"]},
        "label": {"type": ["string", "null"]},
        "index": {"type": ["integer", "null"]},
        "score": {"type": ["number", "null"]},
        "topk": {"type": "array", "items": {"$ref": "#/components/schemas/Score"}},
        "error": {"type": ["string", "null"]},
        "error_code": {"type": ["string", "null"]},
    },
}
_ERROR = {
    "type": "object",
    "required": ["error", "error_code"],
    "properties": {"error": {"type": "string"}, "error_code": {"type": "string"}},
}
_WORDS = {
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


def document(settings: Settings, models: list[str]) -> dict[str, Any]:
    """Return the description of a server of these models."""
    labels = _post(
        "Labels of an image, or rows of several",
        {
            "application/octet-stream": {},
            "image/*": {},
            "application/json": {"schema": {"$ref": "#/components/schemas/Inputs"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": settings.max_files,
                            "items": {"type": "string", "contentMediaType": "image/*"},
                        }
                    },
                }
            },
        },
        {
            "anyOf": [
                {"type": "array", "items": {"$ref": "#/components/schemas/Score"}},
                {"type": "array", "items": {"$ref": "#/components/schemas/Row"}},
            ]
        },
    )
    labels["parameters"] = [
        _query("model", {"enum": models}, "Which model; the first one without it"),
        _query("top_k", {"type": "integer", "minimum": 1}, f"Labels, {DEFAULT_TOP_K} without it"),
        _query("function_to_apply", {"enum": list(FUNCTIONS)}, "What becomes of logits"),
        _query("threshold", {"type": "number"}, "The least score that is shown"),
    ]
    infer = _post(
        "Logits of tensors, or their labels",
        {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferenceRequest"}},
            "application/octet-stream": {},
        },
        {"type": "object", "required": ["model_name", "outputs"]},
    )
    infer["responses"]["200"]["content"]["application/octet-stream"] = {}
    paths: dict[str, Any] = {
        "/": {"get": _get("The page for browsers; what there is, for others"), "post": labels},
        "/v1/classify": {"post": labels},
        "/invocations": {"post": labels},
        "/health": {"get": _get("Whether requests are wanted", 503)},
        "/ping": {"get": _get("The same", 503)},
        "/info": {"get": _get("The contract of each model", 401)},
        "/metrics": {"get": _get("Prometheus' text format", 401, media="text/plain")},
        "/openapi.json": {"get": _get("This document")},
        "/v2": {"get": _get("The server", 401)},
        "/v2/health/live": {"get": _get("Whether a new process is needed", 503)},
        "/v2/health/ready": {"get": _get("Whether requests are wanted", 503)},
        "/v2/models/stats": {"get": _get("What has gone through every model", 401)},
    }
    paths["/"]["get"]["responses"]["200"]["content"]["text/html"] = {}
    known = {"name": models, "version": [VERSION]}
    for base, names in (
        ("/v2/models/{name}", ("name",)),
        ("/v2/models/{name}/versions/{version}", ("name", "version")),
    ):
        given = [
            {"name": n, "in": "path", "required": True, "schema": {"enum": known[n]}} for n in names
        ]
        for end, words in {
            "": "Inputs and outputs",
            "/config": "The configuration",
            "/stats": "What has gone through",
        }.items():
            paths[base + end] = {"parameters": given, "get": _get(words, 401, 404)}
        ready = _get("Whether requests are wanted", 401, 404, 503)
        paths[base + "/ready"] = {"parameters": given, "get": ready}
        paths[base + "/infer"] = {"parameters": given, "post": infer}
    parameters = {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {
            "top_k": {"type": ["integer", "null"], "minimum": 1},
            "function_to_apply": {"enum": [*FUNCTIONS, None]},
            "threshold": {"type": ["number", "null"]},
        },
    }
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
            "datatype": {"type": "string"},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "vit-serve", "version": vit_engine.__version__},
        "paths": paths,
        "components": {
            "schemas": {
                "Score": _SCORE,
                "Row": _ROW,
                "Error": _ERROR,
                "Inputs": {
                    "type": "object",
                    "required": ["inputs"],
                    "additionalProperties": False,
                    "properties": {
                        "inputs": {"type": "string", "contentEncoding": "base64"},
                        "parameters": parameters,
                    },
                },
                "InferenceRequest": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": tensor,
                        },
                        "outputs": {"type": "array", "items": {"type": "object"}},
                        "parameters": {"type": "object"},
                    },
                },
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}] if settings.keys else [],
    }


def _get(words: str, *statuses: int, media: str = "application/json") -> dict[str, Any]:
    return {
        "summary": words,
        "responses": {
            "200": {"description": words, "content": {media: {}}},
            **{str(status): _refusal(status) for status in statuses},
        },
    }


def _post(words: str, bodies: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": words,
        "requestBody": {"required": True, "content": bodies},
        "responses": {
            "200": {"description": words, "content": {"application/json": {"schema": schema}}},
            **{str(status): _refusal(status) for status in _WORDS},
        },
    }


def _refusal(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": _WORDS[status], "content": {"application/json": {"schema": schema}}}


def _query(name: str, schema: dict[str, Any], words: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": words}
