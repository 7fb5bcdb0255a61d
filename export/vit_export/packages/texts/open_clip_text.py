"""Texts as open_clip's own two-tower models take them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import CheckpointError
from vit_export.families.text_config import TextConfig
from vit_export.families.text_towers import OPEN_CLIP_TEXT
from vit_export.families.values import section
from vit_export.files.json_file import read_json
from vit_export.packages.open_clip_model import CONFIG, loaded, open_clip
from vit_export.packages.texts.text_model import TOKENIZER_FILES, TextModel

PUNCTUATION = r"""[!-/:-@\[-`{-~]"""
"""What open_clip takes out of texts for SigLIP; an underscore becomes a blank before."""


class OpenClipTextModel(TextModel):
    """A model out of an open_clip_config.json.

    Its tokenizer is open_clip's own, unless the config names one of transformers', whose files
    then must be in the folder.
    """

    package = "open_clip_torch"
    family = OPEN_CLIP_TEXT

    def __init__(self, folder: Path, image_size: int) -> None:
        config = read_json(folder / CONFIG)
        form = self.family.model_config(config, dict)
        assert isinstance(form, TextConfig)
        self.config = form
        text = section(section(config, "model_cfg"), "text_cfg")
        name = text.get("hf_tokenizer_name")
        if name and not any((folder / file).exists() for file in TOKENIZER_FILES):
            raise CheckpointError(
                f"its tokenizer is transformers' {name}, whose files are missing; put the "
                f"tokenizer.json and tokenizer_config.json of {name} beside {CONFIG}"
            )
        self.tokenizer = open_clip().get_tokenizer(f"local-dir:{folder}")
        self.cleaning = section(text, "tokenizer_kwargs").get(
            "clean", "whitespace" if name else "lower"
        )
        inner = self.inner = getattr(self.tokenizer, "tokenizer", None)  # transformers'
        self.pad_id = inner.pad_token_id if inner else 0
        self.check_vocabulary(len(inner) if inner else self.tokenizer.vocab_size)
        if inner and isinstance(form.pooled_at, int) and form.pooled_at != inner.eos_token_id:
            raise CheckpointError(
                f"its tokenizer ends texts with token {inner.eos_token_id}, text_cfg has eos_id "
                f"{form.pooled_at}; they are of two models"
            )
        self.model = loaded(folder, image_size).requires_grad_(False)
        self.function = "softmax" if self.model.logit_bias is None else "sigmoid"

    def length(self, text: str) -> int:
        """Return how many tokens a text has."""
        if self.inner:
            return len(self.inner(self.tokenizer.clean_fn(text), verbose=False)["input_ids"])
        return len(self.tokenizer.encode(text)) + 2

    def ids(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the tokens of texts (N, T); UsageError for one that is too long for the model."""
        self.check_fit(texts)
        found: NDArray[np.int64] = self.tokenizer(list(texts)).numpy()
        longest = None if self.config.pads_to_length else max(map(self.length, texts))
        return found[:, :longest]

    def encode(self, texts: Sequence[str]) -> Any:
        """Return the vectors of some texts, a tensor (N, size), not normalised."""
        self.check_fit(texts)
        return self.model.encode_text(self.tokenizer(list(texts)))

    def logits_beside(self, texts: Sequence[str]) -> Callable[[Any], Any]:
        """Return what turns pixels into the model's own logits (N, texts)."""
        import torch

        vectors = torch.nn.functional.normalize(torch.from_numpy(self.vectors(texts)), dim=-1)
        self.model.encode_text = lambda *_, **__: vectors  # once for all images
        return lambda pixels: self.model.get_logits(pixels, None)[0]

    def tokenizer_json(self) -> str:
        """Return the tokenizer with the cleaning of texts that open_clip does before it."""
        import tokenizers

        if self.inner:
            backend: Any = getattr(self.inner, "backend_tokenizer", None)
            if not hasattr(backend, "to_str"):
                raise CheckpointError(
                    f"its tokenizer, transformers' {type(self.inner).__name__}, runs in Python "
                    "and not from a tokenizer.json; --labels works with it"
                )
            made = tokenizers.Tokenizer.from_str(backend.to_str())
        else:
            made = _of_open_clip(self.tokenizer)
        own = [made.normalizer] if made.normalizer else []
        made.normalizer = tokenizers.normalizers.Sequence([*_steps(self.cleaning), *own])
        return str(made.to_str())


def _of_open_clip(tokenizer: Any) -> Any:
    """Return open_clip's SimpleTokenizer as one of the tokenizers library, without its cleaning."""
    import tokenizers

    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab=tokenizer.encoder,
            merges=list(tokenizer.bpe_ranks),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    )
    split = tokenizers.pre_tokenizers
    words = tokenizers.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    made.pre_tokenizer = split.Sequence(
        [
            split.Split(words, "removed", invert=True),
            split.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="start $A end", special_tokens=[("start", start), ("end", end)]
    )
    return made


def _steps(cleaning: str) -> list[Any]:
    """Return what open_clip does to a text first, for all that is usual in labels and queries."""
    import tokenizers

    step, regex = tokenizers.normalizers, tokenizers.Regex
    steps = [
        step.NFC(),
        step.Replace(regex("[\u02bc\u2018-\u201b]"), "'"),
        step.Replace(regex("[\u201c-\u201f]"), '"'),
    ]
    if cleaning == "canonicalize":
        steps += [step.Replace("_", " "), step.Replace(regex(PUNCTUATION), "")]
    if cleaning != "whitespace":
        steps.append(step.Lowercase())
    return [*steps, step.Replace(regex(r"\s+"), " "), step.Strip()]
