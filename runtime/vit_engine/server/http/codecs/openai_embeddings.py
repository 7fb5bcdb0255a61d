"""Vectors for images and texts, in the shape of OpenAI's embeddings."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from starlette.responses import Response

from vit_engine.errors import ImageError
from vit_engine.outputs.embeddings import Embeddings, Vectors
from vit_engine.outputs.kinds import OutputKind
from vit_engine.server.core.pending_request import PendingRequest
from vit_engine.server.core.refusal import bad_request
from vit_engine.server.core.settings import Settings
from vit_engine.server.http.codecs.base64_text import decode_base64, decode_data_uri
from vit_engine.server.http.codecs.classification import SPACE, no_result
from vit_engine.server.http.codecs.json_body import decoded
from vit_engine.server.http.responses import FastJSONResponse
from vit_engine.sources.signatures import HEAD, is_image

_HEAD = 4 * (HEAD // 3 + 1)
"""Characters of base64 that hold a file's signature."""


class EmbeddingsBody(msgspec.Struct):
    """The JSON that asks for vectors; what OpenAI's clients send besides is passed over."""

    input: Annotated[
        str | list[str],
        Meta(description="Images as data URIs or in base64; with --text also texts"),
    ]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


_JSON = msgspec.json.Decoder(EmbeddingsBody)
_USAGE = 'the body is as {"model": NAME, "input": ["data:image/jpeg;base64,..."]}'


@dataclass(frozen=True)
class EmbeddingsRequest:
    """What a client wants vectors of, in order: images as bytes, texts as such."""

    model: str | None
    inputs: list[bytes | str]
    in_base64: bool
    dimensions: int | None

    @property
    def images(self) -> list[bytes]:
        """The images alone, in order."""
        return [given for given in self.inputs if isinstance(given, bytes)]

    @property
    def texts(self) -> list[str]:
        """The texts alone, in order."""
        return [given for given in self.inputs if isinstance(given, str)]


def parse_request(body: bytes, settings: Settings) -> EmbeddingsRequest:
    """Read the body; RefusalError for what makes no sense."""
    document = decoded(body, _JSON, usage=_USAGE)
    given = [document.input] if isinstance(document.input, str) else document.input
    if not 0 < len(given) <= settings.max_files:
        raise bad_request(f"input has {len(given)} items, it may have 1 to {settings.max_files}")
    return EmbeddingsRequest(
        document.model,
        [_item(text) for text in given],
        document.encoding_format == "base64",
        document.dimensions,
    )


def _item(text: str) -> bytes | str:
    """Return an image's bytes, or a text that is none."""
    try:
        if (image := decode_data_uri(text)) is not None:
            return image
    except ValueError as e:
        raise bad_request(f"a data URI in input is none ({e})") from None
    try:
        if not is_image(decode_base64(text[:_HEAD])[:HEAD]):
            return text
    except ValueError:
        return text
    try:
        return decode_base64(text)
    except ValueError:
        raise bad_request("an image in input is not whole base64") from None


def space_for(asked: EmbeddingsRequest, name: str, output: OutputKind, *, with_texts: bool) -> str:
    """Return the space of the vectors; RefusalError for what such a model cannot answer."""
    if not isinstance(output, Embeddings):
        raise bad_request(f"{name} gives labels, not vectors; ask /v1/classify for them")
    if asked.dimensions not in (None, output.size):
        raise bad_request(f"{name} gives {output.size} dimensions, not {asked.dimensions}")
    if asked.texts and not with_texts:
        raise bad_request(
            f"input has {asked.texts[0]!r:.80}, which is no image, and no text model of {name} is "
            "served: start the server with --text FILE"
        )
    return output.space


def vectors_of(done: PendingRequest) -> list[Vectors]:
    """Return the vectors of the images; RefusalError for one that has none."""
    found = []
    for i, row in enumerate(done.results()):
        if isinstance(row, ImageError):
            raise no_result(row, f"image {i} of input ")
        if not np.isfinite(row).all():
            error = ImageError("nonfinite", "the model gave NaN or Inf")
            raise no_result(error, f"image {i} of input: ")
        found.append(row)
    return found


def answer(
    asked: EmbeddingsRequest,
    images: list[Vectors],
    texts: Vectors,
    *,
    name: str,
    space: str,
    headers: Mapping[str, str],
) -> Response:
    """Return the vectors in the order of what was asked, and the space that they lie in."""
    ours, words = iter(images), iter(texts)
    data: list[dict[str, Any]] = []
    for index, given in enumerate(asked.inputs):
        vector = next(ours) if isinstance(given, bytes) else next(words)
        exact = vector.astype("<f4")
        found = base64.b64encode(exact.tobytes()).decode() if asked.in_base64 else exact.tolist()
        data.append({"object": "embedding", "index": index, "embedding": found})
    document = {
        "object": "list",
        "data": data,
        "model": name,
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
        "space": space,
    }
    return FastJSONResponse(document, headers={**headers, SPACE: space})
