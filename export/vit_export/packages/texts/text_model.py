"""Texts as a library's own two-tower model takes them: their tokens, vectors and logits."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import ScoreKind
from vit_engine.errors import CheckpointError, UsageError
from vit_export.families.family import Family
from vit_export.families.text_config import TextConfig

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
"""What transformers' tokenizers of these models read, each of them some."""

BATCH = 64
"""Texts in PyTorch's memory at once."""


class TextModel(ABC):
    """The library's own model and tokenizer out of a folder, in fp32, eager, on the CPU.

    CheckpointError for a tokenizer with which no such model was trained.
    """

    package: str  # as pip has it
    family: Family
    config: TextConfig
    function: ScoreKind
    """How its logits become scores."""
    tokenizer: Any
    pad_id: int
    model: Any  # has `logit_scale`, and maybe `logit_bias`

    @abstractmethod
    def length(self, text: str) -> int:
        """Return how many tokens a text has."""

    @abstractmethod
    def ids(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the tokens of texts (N, T); UsageError for one that is too long for the model."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Any:
        """Return the vectors of some texts, a tensor (N, size), not normalised."""

    @abstractmethod
    def tokenizer_json(self) -> str:
        """Return what the tokenizers library reads; CheckpointError where there is no such."""

    @abstractmethod
    def logits_beside(self, texts: Sequence[str]) -> Callable[[Any], Any]:
        """Return what turns pixels into the model's own logits (N, texts)."""

    @property
    def tokenizer_in_words(self) -> str:
        """How texts become tokens, for a person to read."""
        length = self.config.length
        how = "to the longest"
        if self.config.pads_to_length:
            how = f"to {length} tokens, longer texts cut off"
        name = type(self.tokenizer).__name__
        return f"{name} of {self.package} {version(self.package)}, padded on the right {how}"

    @property
    def scale(self) -> float:
        """What cosines are multiplied by."""
        return float(self.model.logit_scale.exp())

    @property
    def bias(self) -> float:
        """What is added to them then; 0 where the model has none."""
        bias = getattr(self.model, "logit_bias", None)
        return 0.0 if bias is None else float(bias)

    def fits(self, text: str) -> bool:
        """Tell whether a text is not too long for the model."""
        return self.config.pads_to_length or self.length(text) <= self.config.length

    def check_fit(self, texts: Sequence[str]) -> None:
        """Raise UsageError for a text that is too long for the model."""
        if long := [text for text in texts if not self.fits(text)]:
            raise UsageError(
                f"the text {long[0]!r} has {self.length(long[0])} tokens, this model's texts have "
                f"at most {self.config.length}; shorten it"
            )

    def check_vocabulary(self, tokens: int) -> None:
        """Raise CheckpointError where the tokenizer has tokens that the model does not know."""
        if tokens > self.config.vocabulary:
            raise CheckpointError(
                f"its tokenizer has {tokens} tokens, its text tower has vocab_size "
                f"{self.config.vocabulary}; they are of two models"
            )

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors (N, size) of texts, not normalised."""
        import torch

        def parts() -> Iterator[NDArray[np.float32]]:
            for i in range(0, len(texts), BATCH):
                yield self.encode(texts[i : i + BATCH]).numpy()

        with torch.inference_mode():
            return np.concatenate(list(parts()))


def prompts(labels: Sequence[str], template: str) -> list[str]:
    """Return the text of each label."""
    return [template.replace("{}", label) for label in labels]
