"""Tiny models of images and texts, with the demo's tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support import ROOT, TINY, write_checkpoint

DEMO_CLIP = ROOT / "export/vit_export/demo_clip"
TOKENIZER_CONFIG = "tokenizer_config.json"

VISION = {k: v for k, v in TINY.items() if k != "num_labels"}
EOS = 758  # of the demo's tokenizer
TEXT = {
    **{k: VISION[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
    "intermediate_size": VISION["intermediate_size"],
    "vocab_size": EOS + 1,
    "max_position_embeddings": 40,
    "eos_token_id": EOS,
}
SIGLIP = {"text_config": {**TEXT, "max_position_embeddings": 64}}
CASES: dict[str, dict[str, Any]] = {
    "CLIPModel": {"projection_dim": 24},
    "MetaClip2Model": {"projection_dim": 24},
    "SiglipModel": SIGLIP,
}
"""By architecture, what its config has besides."""


def write_two_towers(folder: Path, architecture: str, **config: Any) -> Path:
    """Write a random model of images and texts, its logits spread by a scale of about 1."""
    sections = {"vision_config": VISION, "text_config": TEXT}
    write_checkpoint(
        folder, architecture=architecture, spread=1.5, **sections | CASES[architecture] | config
    )
    shutil.copyfile(DEMO_CLIP / "tokenizer.json", folder / "tokenizer.json")
    options = json.loads((DEMO_CLIP / TOKENIZER_CONFIG).read_text())
    options["tokenizer_class"] = "PreTrainedTokenizerFast"
    if architecture == "SiglipModel":
        options |= {"model_input_names": ["input_ids"], "padding_side": "right"}
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(options))
    return folder


def change_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; of a key that is a table, those of the change."""
    document = json.loads(path.read_text())
    for key, value in changes.items():
        document[key] = document[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(document))


def text_vectors(folder: Path, texts: list[str]) -> NDArray[np.float32]:
    """Return the vectors (N, size) of transformers' own model, at length 1."""
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    how: dict[str, Any] = {"padding": True}
    if model.config.model_type == "siglip":
        how = {"padding": "max_length", "max_length": 64, "truncation": True}
    with torch.inference_mode():
        tokens = tokenizer(texts, return_tensors="pt", **how)
        found = torch.nn.functional.normalize(model.get_text_features(**tokens).pooler_output)
    vectors: NDArray[np.float32] = found.numpy()
    return vectors
