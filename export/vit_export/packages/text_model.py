"""Texts as transformers' own two-tower models take them: their tokens, vectors and logits."""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import CheckpointError, UsageError
from vit_export.families.family import Family
from vit_export.families.text_config import TextConfig
from vit_export.packages.package import Model

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
"""What transformers' tokenizers of these models read, each of them some."""

BATCH = 64
"""Texts in PyTorch's memory at once."""


class TextModel:
    """The library's own model and tokenizer out of a folder, in fp32, eager, on the CPU.

    CheckpointError for weights that lack something, which transformers would make up, and for a
    tokenizer with which no such model was trained.
    """

    def __init__(self, folder: Path, family: Family, config: TextConfig) -> None:
        import torch
        import transformers

        logging = transformers.utils.logging
        logging.disable_progress_bar()
        self.family, self.config = family, config
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        told = logging.get_verbosity()
        logging.set_verbosity_error()  # it tells of what is missing in a table of many lines
        try:
            self.model, found = getattr(transformers, family.architecture).from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                attn_implementation="eager",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        finally:
            logging.set_verbosity(told)
        if other := sorted(name for name, *_ in found["mismatched_keys"]):
            raise CheckpointError(f"the weights hold {other[0]} in another shape than config.json")
        if missing := sorted(found["missing_keys"]):
            raise CheckpointError(
                f"the weights hold no {missing[0]}, which {family.architecture} has"
            )
        self.model.eval().requires_grad_(False)
        self._check_tokenizer(folder)

    def _check_tokenizer(self, folder: Path) -> None:
        files = {"tokenizer.json", *self.tokenizer.vocab_files_names.values()}
        if not any((folder / name).exists() for name in files):  # transformers makes an empty one
            raise CheckpointError(
                f"its tokenizer's files are missing; expected {' or '.join(sorted(files))} beside "
                "config.json"
            )
        end, at = self.tokenizer.eos_token_id, self.config.pooled_at
        if isinstance(at, int) and at != end:
            raise CheckpointError(
                f"its tokenizer ends texts with token {end}, text_config has eos_token_id {at}; "
                "they are of two models"
            )
        if self.tokenizer.padding_side != "right":
            raise CheckpointError(
                f"its tokenizer pads on the {self.tokenizer.padding_side}, and its text tower was "
                'trained with padding on the right; set "padding_side" to "right" in '
                "tokenizer_config.json"
            )
        masked = "attention_mask" in self.tokenizer.model_input_names
        if masked and self.config.pads_to_length:
            raise CheckpointError(
                "its tokenizer hides padding from attention, and SigLIP was trained to see it; set "
                '"model_input_names" to ["input_ids"] in tokenizer_config.json'
            )
        if (rows := len(self.tokenizer)) > self.config.vocabulary:
            raise CheckpointError(
                f"its tokenizer has {rows} tokens, text_config has vocab_size "
                f"{self.config.vocabulary}; they are of two models"
            )

    @property
    def tokenizer_in_words(self) -> str:
        """How texts become tokens, for a person to read."""
        length = self.config.length
        how = "to the longest"
        if self.config.pads_to_length:
            how = f"to {length} tokens, longer texts cut off"
        name = type(self.tokenizer).__name__
        return f"{name} of transformers {version('transformers')}, padded on the right {how}"

    @property
    def scale(self) -> float:
        """What cosines are multiplied by."""
        return float(self.model.logit_scale.exp())

    @property
    def bias(self) -> float:
        """What is added to them then; 0 where the model has none."""
        return float(getattr(self.model, "logit_bias", 0.0))

    def tokens(self, texts: Sequence[str]) -> Any:
        """Return what the model takes for texts; UsageError for one that is too long for it."""
        how: dict[str, Any] = {"padding": True}
        if self.config.pads_to_length:
            how = {"padding": "max_length", "max_length": self.config.length, "truncation": True}
        elif long := [text for text in texts if not self.fits(text)]:
            raise UsageError(
                f"the text {long[0]!r} has {self.length(long[0])} tokens, this model's texts have "
                f"at most {self.config.length}; shorten it"
            )
        return self.tokenizer(list(texts), return_tensors="pt", **how)

    def length(self, text: str) -> int:
        """Return how many tokens a text has."""
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    def fits(self, text: str) -> bool:
        """Tell whether a text is not too long for the model."""
        return self.config.pads_to_length or self.length(text) <= self.config.length

    def tokenizer_json(self, folder: Path) -> str:
        """Return the tokenizer as the tokenizers library reads it; CheckpointError where it can't.

        Of one that transformers runs in Python, it is the folder's own file beside it.
        """
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        if hasattr(backend, "to_str"):
            return str(backend.to_str())
        try:
            return (folder / "tokenizer.json").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise CheckpointError(
                f"its tokenizer, transformers' {type(self.tokenizer).__name__}, needs it, "
                "and no tokenizer.json stands in for it; --labels works with it"
            ) from e

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors (N, size) of texts, not normalised."""
        import torch

        def parts() -> Iterator[NDArray[np.float32]]:
            for i in range(0, len(texts), BATCH):
                found = self.model.get_text_features(**self.tokens(texts[i : i + BATCH]))
                yield getattr(found, "pooler_output", found).numpy()  # a tensor in transformers 4

        with torch.inference_mode():
            return np.concatenate(list(parts()))

    def logits_beside(self, texts: Sequence[str], *, image_size: int) -> Model:
        """Return what turns pixels of that size into the model's own logits (N, texts)."""
        tokens = self.tokens(texts)
        tower = self.model.text_model
        encode: Callable[[], Any] = functools.cache(functools.partial(tower.forward, **tokens))
        # Once for all images; a copy, since the library projects the result in place.
        tower.forward = lambda **_: copy.copy(encode())
        another = image_size != self.model.config.vision_config.image_size
        told = {"interpolate_pos_encoding": True} if another else {}
        return lambda pixels: self.model(pixel_values=pixels, **tokens, **told).logits_per_image


def prompts(labels: Sequence[str], template: str) -> list[str]:
    """Return the text of each label."""
    return [template.replace("{}", label) for label in labels]
