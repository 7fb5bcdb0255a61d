"""Labels for images: bodies of every kind to images and parameters, logits to labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.responses import Response

from vit_engine.artefact.contract import Contract, Output, ScoreKind
from vit_engine.errors import ImageError, UsageError
from vit_engine.outputs.embeddings import Embeddings
from vit_engine.outputs.kinds import OutputKind, Result
from vit_engine.outputs.scores import DEFAULT_TOP_K, ScoreOptions, Selection
from vit_engine.server.core.pending_request import PendingRequest
from vit_engine.server.core.refusal import RefusalError, bad_request
from vit_engine.server.core.settings import Settings
from vit_engine.server.http.codecs.base64_text import decode_base64, decode_data_uri
from vit_engine.server.http.codecs.json_body import BOM, decoded, from_query
from vit_engine.server.http.codecs.multipart import files_and_fields
from vit_engine.server.http.responses import FastJSONResponse
from vit_engine.sources.signatures import HEAD, is_image, unread_format

SPACE = "embedding-space"
"""The header that tells which vectors an answer's may be compared with."""


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the client wants of the labels, by the names of Hugging Face's inference contract."""

    top_k: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description=f"Labels; {DEFAULT_TOP_K} without it and without a threshold"),
    ] = None
    function_to_apply: Annotated[
        ScoreKind | None, Meta(description="What becomes of logits; the model's own without it")
    ] = None
    threshold: Annotated[float | None, Meta(description="The least score that is shown")] = None


class BodyParameters(Parameters, frozen=True, forbid_unknown_fields=True):
    """The same, with what Hugging Face's zero-shot client asks for."""

    candidate_labels: Annotated[
        list[str] | None, Meta(description="All labels of a zero-shot model, in any order")
    ] = None
    hypothesis_template: Annotated[
        str | None, Meta(description="The template that they were put into at export")
    ] = None


class ClassifyBody(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON that asks for the labels of one image."""

    inputs: Annotated[str, Meta(extra_json_schema={"contentEncoding": "base64"})]
    parameters: BodyParameters | None = None


_JSON = msgspec.json.Decoder(ClassifyBody)
_PARAMETERS = "parameters are top_k, threshold and function_to_apply (softmax, sigmoid or none)"
_USAGE = 'the body is an image, or as {"inputs": BASE64, "parameters": {"top_k": 3}}'


@dataclass(frozen=True)
class ClassifyRequest:
    """Images with their names, to be answered one by one or, if it was one alone, as such."""

    images: list[bytes]
    names: list[str | None]
    parameters: Parameters
    model: str | None

    def check(self, contract: Contract) -> None:
        """Raise RefusalError for candidates that are not those of the model."""
        wanted, made = self.parameters, contract.zero_shot
        if not isinstance(wanted, BodyParameters) or not isinstance(contract.output, Output):
            return
        candidates, template = wanted.candidate_labels, wanted.hypothesis_template
        if (candidates, template) == (None, None):
            return
        if made is None:
            raise bad_request("the model's labels are its own: it takes no candidate_labels")
        labels = contract.output.labels
        if candidates is not None and sorted(candidates) != sorted(labels):
            raise bad_request(
                f"the model has {len(labels)} labels, made at export ({', '.join(labels[:3])}...), "
                "and candidate_labels are others; export those with --labels"
            )
        if template is not None and (template,) != made.templates:
            raise bad_request(
                f"the labels were put into {', '.join(made.templates)} at export, not into "
                "hypothesis_template"
            )

    def selection(self, output: OutputKind) -> Selection:
        """Return which results the client wants; RefusalError for nonsense."""
        wanted = self.parameters
        top_k = wanted.top_k
        if isinstance(wanted, BodyParameters) and wanted.candidate_labels and top_k is None:
            top_k = len(wanted.candidate_labels)
        options = ScoreOptions(top_k, wanted.threshold, wanted.function_to_apply)
        try:
            return output.selection(options)
        except UsageError as e:
            raise bad_request(str(e)) from None


def parse_request(
    body: bytes, content_type: str, query: Mapping[str, str], settings: Settings
) -> ClassifyRequest:
    """Tell what a body is, by its first bytes first; RefusalError for what makes no sense."""
    kind = content_type.partition(";")[0].strip().lower()
    given = dict(query)
    if not is_image(body[:HEAD]) and not unread_format(body[:HEAD]):
        if kind == "multipart/form-data":
            files, fields = files_and_fields(body, content_type, maximum=settings.max_files)
            if not files:
                raise bad_request("the multipart body has no file; send each as a part with a name")
            for name, value in fields:
                if name in given:
                    raise bad_request(f"{name[:40]!r} is given twice, by fields or the query")
                given[name] = value
            names, images = zip(*files, strict=True)
            return _request([*images], [*names], given)
        if body[:256].removeprefix(BOM).lstrip()[:1] == b"{":
            if given.keys() - {"model"}:
                raise bad_request("parameters belong into the JSON body, not into the query")
            return _from_json(body, given.get("model"))
    return _request([body], [None], given)


def _request(
    images: list[bytes], names: list[str | None], given: dict[str, str]
) -> ClassifyRequest:
    """Return a request whose parameters are text."""
    model = given.pop("model", None)
    parameters = from_query(given, Parameters, usage=_PARAMETERS)
    return ClassifyRequest(images, names, parameters, model)


def _from_json(body: bytes, model: str | None) -> ClassifyRequest:
    document = decoded(body, _JSON, usage=f"{_USAGE}; {_PARAMETERS}")
    if document.inputs[:8].lower().startswith(("http://", "https:/")):
        raise bad_request("inputs is a URL, which is not fetched; send the image itself, in base64")
    try:
        image = decode_data_uri(document.inputs)
        if image is None:
            image = decode_base64(document.inputs)
    except ValueError:
        raise bad_request("inputs must be the base64 of one image file") from None
    return ClassifyRequest([image], [None], document.parameters or Parameters(), model)


def answer(asked: ClassifyRequest, done: PendingRequest, output: OutputKind) -> Response:
    """Return the labels of one image, or a row of each of several."""
    selection = asked.selection(output)
    found: list[Result] = []
    for name, row in zip(asked.names, done.results(), strict=True):
        if isinstance(row, ImageError):
            found.append(output.failed(name, row))
        else:
            found += output.results(row[None], selection, [name])
    headers = {"server-timing": timing(done)}
    if isinstance(output, Embeddings):
        headers[SPACE] = output.space
    if len(found) > 1:
        return FastJSONResponse([p.to_dict() for p in found], headers=headers)
    (only,) = found
    if only.error_code is not None:
        subject = "the image " if isinstance(done.outcomes[0], ImageError) else ""
        raise no_result(ImageError(only.error_code, str(only.error)), subject)
    return FastJSONResponse(only.to_json(), headers=headers)


def no_result(error: ImageError, subject: str) -> RefusalError:
    """Return the refusal of an image without a result; `subject` begins its message."""
    return RefusalError(413 if error.code == "too_large" else 422, error.code, f"{subject}{error}")


def timing(done: PendingRequest) -> str:
    """Return the longest time that an image spent at each stage, as Server-Timing has it."""
    longest = {
        stage: max(getattr(timings, stage) for timings in done.timings)
        for stage in ("queue", "decode", "engine")
    }
    return ", ".join(f"{stage};dur={seconds * 1e3:.2f}" for stage, seconds in longest.items())
