"""Labels for images: bodies of every kind to images and parameters, logits to labels."""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from vit_engine.artefact.contract import ScoreKind
from vit_engine.errors import ImageError, UsageError
from vit_engine.outputs.kinds import OutputKind
from vit_engine.outputs.prediction import Prediction
from vit_engine.outputs.scores import ScoreOptions, Selection
from vit_engine.server.core.scheduler import Ticket
from vit_engine.server.core.settings import Settings
from vit_engine.server.http.codecs.json_reader import JsonReader
from vit_engine.server.http.codecs.multipart import files_of
from vit_engine.server.http.refusal import RefusalError, malformed, refusal_of_image
from vit_engine.sources.signatures import HEAD, is_image, unread_format

FUNCTIONS: tuple[ScoreKind, ...] = get_args(ScoreKind)
"""What may become of logits, by the names of Hugging Face's inference contract."""

LARGE = 512 * 2**10
"""Bytes of JSON that take over a millisecond: one string, of base64."""


@dataclass(frozen=True)
class Question:
    """Images with their names, to be answered one by one or, if it was one alone, as such."""

    images: list[bytes]
    names: list[str | None]
    parameters: ScoreOptions

    def selection(self, output: OutputKind) -> Selection:
        """Return which results the client wants; RefusalError for nonsense."""
        try:
            return output.selection(self.parameters)
        except UsageError as e:
            raise malformed(str(e)) from None


async def question_of(
    body: bytes,
    content_type: str,
    query: Mapping[str, str],
    settings: Settings,
    reader: JsonReader,
) -> Question:
    """Tell what a body is, by its first bytes first; RefusalError for what makes no sense."""
    kind = content_type.partition(";")[0].strip().lower()
    wanted = {name: query[name] for name in query if name != "model"}
    if not is_image(body[:HEAD]) and not unread_format(body[:HEAD]):
        if kind == "multipart/form-data":
            files = files_of(body, content_type, most=settings.max_files)
            if not files:
                raise malformed("the multipart body has no file; send each as a part with a name")
            return Question([f for _, f in files], [n for n, _ in files], _from_query(wanted))
        if body[:256].lstrip()[:1] == b"{":
            if wanted:
                raise malformed("parameters belong into the JSON body, not into the query")
            if len(body) > LARGE:
                return await reader.read(partial(_from_json, body))
            return _from_json(body)
    return Question([body], [None], _from_query(wanted))


def _from_json(body: bytes) -> Question:
    document = json_of(body)
    unknown = document.keys() - {"inputs", "parameters"}
    if unknown:
        raise malformed(
            f"the body has {_listed(unknown)}; it takes inputs and parameters, as in "
            '{"inputs": BASE64, "parameters": {"top_k": 3}}'
        )
    inputs = document.get("inputs")
    if not isinstance(inputs, str):
        raise malformed("inputs must be the base64 of one image file")
    if inputs[:8].lower().startswith(("http://", "https:/")):
        raise malformed("inputs is a URL, which is not fetched; send the image itself, in base64")
    return Question([_decoded(inputs)], [None], parameters_of(document.get("parameters")))


def json_of(body: bytes | memoryview) -> dict[str, Any]:
    """Return the JSON object in a body; RefusalError where there is none."""
    try:
        document = json.loads(bytes(body))
    except (ValueError, RecursionError) as e:
        words = "nested too deep" if isinstance(e, RecursionError) else str(e)
        raise malformed(f"the body is not JSON ({words})") from None
    if not isinstance(document, dict):
        raise malformed("the body is JSON, but no object")
    return document


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.replace("\n", ""), validate=True)  # as base64(1) folds it
    except (binascii.Error, ValueError) as e:
        raise malformed(f"inputs is not base64 ({e})") from None


def _from_query(query: Mapping[str, str]) -> ScoreOptions:
    given: dict[str, Any] = dict(query)
    try:
        if "top_k" in given:
            given["top_k"] = int(given["top_k"])
        if "threshold" in given:
            given["threshold"] = float(given["threshold"])
    except ValueError as e:
        raise malformed(f"a parameter in the query is no number ({e})") from None
    return parameters_of(given)


def parameters_of(given: object) -> ScoreOptions:
    """Return the parameters in a JSON object, null meaning the default."""
    if given is None:
        return ScoreOptions()
    if not isinstance(given, dict):
        raise malformed("parameters must be an object")
    known = {"top_k", "function_to_apply", "threshold"}
    if unknown := given.keys() - known:
        raise malformed(f"parameters has {_listed(unknown)}; it takes {_listed(known)}")
    top_k = given.get("top_k")
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise malformed(f"top_k is {top_k!r:.40}, it must be a whole number of at least 1")
    function = given.get("function_to_apply")
    if function is not None and function not in FUNCTIONS:
        raise malformed(
            f"function_to_apply is {function!r:.40}, it must be one of {', '.join(FUNCTIONS)}"
        )
    threshold = given.get("threshold")
    if threshold is not None and (
        type(threshold) not in (int, float) or not math.isfinite(threshold)
    ):
        raise malformed(f"threshold is {threshold!r:.40}, it must be a number")
    return ScoreOptions(top_k, threshold, function)


def answer(question: Question, ticket: Ticket, output: OutputKind) -> Response:
    """Return the labels of one image, or a row of each of several."""
    selection = question.selection(output)
    found = [
        _prediction(name, outcome, output, selection)
        for name, outcome in zip(question.names, ticket.outcomes, strict=True)
    ]
    headers = {"server-timing": timing(ticket)}
    if len(found) > 1:
        return JSONResponse([p.to_dict() for p in found], headers=headers)
    if isinstance(error := ticket.outcomes[0], ImageError):
        raise refusal_of_image(error)
    if found[0].error is not None:
        raise RefusalError(422, found[0].error_code or "", found[0].error)
    return JSONResponse(found[0].to_json(), headers=headers)


def timing(ticket: Ticket) -> str:
    """Return the longest time that an image spent at each stage, as Server-Timing has it."""
    longest = {
        stage: max(getattr(times, stage) for times in ticket.times)
        for stage in ("queue", "decode", "engine")
    }
    return ", ".join(f"{stage};dur={seconds * 1e3:.2f}" for stage, seconds in longest.items())


def _prediction(
    name: str | None,
    outcome: NDArray[np.float32] | ImageError | RefusalError | None,
    output: OutputKind,
    selection: Selection,
) -> Prediction:
    if isinstance(outcome, ImageError):
        return output.failed(name, outcome)
    if isinstance(outcome, RefusalError):
        raise outcome
    assert outcome is not None
    (found,) = output.results(outcome[None], selection, [name])
    return found


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(name[:40] for name in names))
