"""The checkpoint that all contenders are given: one that vit-export takes, or random weights."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from comparison.job import whole
from vit_engine.artefact.contract import Preprocessing
from vit_engine.outputs.scores import Scores
from vit_export.checkpoints.checkpoint import VectorOptions, load
from vit_export.families.model_config import ModelConfig

DEMO, DEMO_OF_VECTORS = "demo", "demo-clip"

_TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}

SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT-B/16": ("ViT", {}),  # transformers' defaults
    "ViT-Ti/16": ("ViT", _TINY),
    "ViT-Ti/16-4": ("ViT", _TINY | {"num_hidden_layers": 4}),  # int8 in half a minute
    "DINOv2-B/14": ("Dinov2", {}),
    "SigLIP-B/16": ("Siglip", {}),
}
"""How transformers begins the names of the family's classes, and what differs from its defaults."""


@dataclass(frozen=True)
class Model:
    """A checkpoint folder and what the report says of it."""

    name: str
    folder: Path
    weights_sha256: str
    model_config: ModelConfig
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    pooling: str = ""  # of a model that gives vectors
    random: bool = False

    @property
    def gflop(self) -> float:
        """Return the multiply-adds of one image's matrix products, twice, in 1e9.

        The whole architecture's, also for a contender that leaves out what no one reads.
        """
        a = self.model_config
        patches, tokens, d = a.grid**2, a.tokens, a.hidden_size
        mlp = (3 if a.gated else 2) * d * a.intermediate_size
        block = tokens * (4 * d * d + 2 * tokens * d + mlp)
        embed = patches * 3 * a.patch_size**2 * d
        head = d * len(a.pooled) * (len(self.labels) or a.projection)
        return 2 * (embed + a.layers * block + head) / 1e9

    def card(self) -> dict[str, Any]:
        """Return what the report says of the model."""
        told = {"vector_size": self.model_config.vector_size, "pooling": self.pooling}
        return (told if self.pooling else {}) | {
            "name": self.name,
            "weights_sha256": self.weights_sha256,
            "random": self.random,
            "gflop": self.gflop,
            "labels": len(self.labels),
            **json.loads(json.dumps(asdict(self.model_config))),  # as read back: lists for tuples
        }


def model_from_name(model: str, *, vectors: bool = False) -> Model:
    """Return any model that vit-export takes, for logits, or for vectors as `--embed` has them."""
    found = load(model, vectors=VectorOptions() if vectors else None)
    told = (found.weights_sha256, found.model_config, found.preprocessing)
    if isinstance(found.output, Scores):
        return Model(found.model, found.folder, *told, labels=found.output.labels)
    return Model(found.model, found.folder, *told, pooling=found.output.pooling)


def random_model(name: str, cache: Path, *, vectors: bool = False) -> Model:
    """Return a ViT with seeded random weights, written to the cache on first use."""
    folder = cache / (name.lower().replace("/", "-") + "-random")
    if not folder.exists():
        import torch
        import transformers

        torch.manual_seed(0)
        family, differing = SIZES[name]
        config = getattr(transformers, f"{family}Config")(num_labels=1000, **differing)
        model = getattr(transformers, f"{family}ForImageClassification")(config)
        half = [0.5, 0.5, 0.5]
        preprocessor: dict[str, Any] = {"image_processor_type": "ViTImageProcessor", "size": 224}
        preprocessor |= {"do_normalize": True, "image_mean": half, "image_std": half}
        with whole(folder) as partial:
            model.save_pretrained(partial)
            (partial / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    found = model_from_name(str(folder), vectors=vectors)
    return replace(found, name=f"{name}, seeded random weights", random=True)
