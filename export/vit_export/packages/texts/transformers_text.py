"""Texts as transformers' own two-tower models take them."""

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import CheckpointError
from vit_export.families.text_config import TextConfig
from vit_export.families.text_towers import text_family_from_config
from vit_export.files.json_file import read_json
from vit_export.packages.texts.text_model import TextModel


class TransformersTextModel(TextModel):
    """One of transformers' classes; what its weights lack is not made up, as transformers would."""

    package = "transformers"

    def __init__(self, folder: Path, image_size: int) -> None:
        config = read_json(folder / "config.json")
        self.folder, self.image_size = folder.resolve(), image_size
        self.family = text_family_from_config(config)
        form = self.family.model_config(config, dict)
        assert isinstance(form, TextConfig)
        self.config = form
        self.function = "sigmoid" if self.family.model_type == "siglip" else "softmax"
        import torch
        import transformers

        logging = transformers.utils.logging
        logging.disable_progress_bar()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        told = logging.get_verbosity()
        logging.set_verbosity_error()  # it tells of what is missing in a table of many lines
        try:
            self.model, found = getattr(transformers, self.family.architecture).from_pretrained(
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
                f"the weights hold no {missing[0]}, which {self.family.architecture} has"
            )
        self.model.eval().requires_grad_(False)
        self.pad_id = self.tokenizer.pad_token_id
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
        self.check_vocabulary(len(self.tokenizer))

    def length(self, text: str) -> int:
        """Return how many tokens a text has."""
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    def ids(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the tokens of texts (N, T); UsageError for one that is too long for the model."""
        found: NDArray[np.int64] = self._tokens(texts)["input_ids"].numpy()
        return found

    def _tokens(self, texts: Sequence[str]) -> Any:
        self.check_fit(texts)
        how: dict[str, Any] = {"padding": True}
        if self.config.pads_to_length:
            how = {"padding": "max_length", "max_length": self.config.length, "truncation": True}
        return self.tokenizer(list(texts), return_tensors="pt", **how)

    def encode(self, texts: Sequence[str]) -> Any:
        """Return the vectors of some texts, a tensor (N, size), not normalised."""
        found = self.model.get_text_features(**self._tokens(texts))
        return getattr(found, "pooler_output", found)  # a tensor in transformers 4

    def tokenizer_json(self) -> str:
        """Return the tokenizer; of one that transformers runs in Python, the folder's own file."""
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        if hasattr(backend, "to_str"):
            return str(backend.to_str())
        try:
            return (self.folder / "tokenizer.json").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise CheckpointError(
                f"its tokenizer, transformers' {type(self.tokenizer).__name__}, needs it, "
                "and no tokenizer.json stands in for it; --labels works with it"
            ) from e

    def logits_beside(self, texts: Sequence[str]) -> Callable[[Any], Any]:
        """Return what turns pixels into the model's own logits (N, texts)."""
        tokens = self._tokens(texts)
        tower = self.model.text_model
        encode: Callable[[], Any] = functools.cache(functools.partial(tower.forward, **tokens))
        # Once for all images; a copy, since the library projects the result in place.
        tower.forward = lambda **_: copy.copy(encode())
        another = self.image_size != self.model.config.vision_config.image_size
        told = {"interpolate_pos_encoding": True} if another else {}
        return lambda pixels: self.model(pixel_values=pixels, **tokens, **told).logits_per_image
