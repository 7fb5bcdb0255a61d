"""What the text tower of a two-tower model says of itself, in the metadata of its own file."""

import json
from dataclasses import asdict, dataclass
from typing import ClassVar

from vit_engine.artefact.contract import Identity, document_from, parsed
from vit_engine.errors import ArtefactError

KEY = "vit_engine_text"
TOKENIZER = "vit_engine_tokenizer"
"""Under which the tokenizer lies beside the contract: a tokenizer.json."""
SCHEMA = 1

INPUT, OUTPUT = "input_ids", "embedding"
"""The graph's tensors: int64 `[batch, tokens]`, float32 `[batch, size]`."""


@dataclass(frozen=True)
class TextParity:
    """The tower's vectors beside its reference's, measured at export on `texts` texts."""

    reference: str
    texts: int
    min_cosine: float
    max_abs_diff: float  # of an element


@dataclass(frozen=True)
class TextContract:
    """Everything the runtime needs to know of a text tower, whose vectors have length 1.

    Texts have at most `length` tokens. With `pads_to_length` each is padded with `pad_id` on the
    right, or cut off, to just as many, as SigLIP's are; without, to the longest beside it, and a
    longer one than `length` is refused, as CLIP's are. What else happens to a text, such as
    lower-casing, is in the tokenizer. `space` is that of the image vectors that these may be
    compared with; see `contract.EmbeddingOutput`.
    """

    identity: Identity
    length: int
    pads_to_length: bool
    pad_id: int
    size: int
    space: str
    parity: TextParity | None
    content_sha256: str | None = None
    schema: int = SCHEMA

    key: ClassVar[str] = KEY

    def dumps(self) -> str:
        """Return the JSON document that `loads` reads back to an equal contract."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))


def loads(text: str) -> TextContract:
    """Read a contract; `ArtefactError` says what is wrong with it."""
    contract: TextContract = parsed(TextContract, document_from(text, SCHEMA), "contract")
    if min(contract.length, contract.size) < 1:
        raise ArtefactError("the contract contradicts itself: sizes must be positive")
    return contract
