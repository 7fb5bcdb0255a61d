"""Writes a ViT with seeded random weights as a checkpoint folder: speed needs no training.

python -m comparison.inputs.random_vit NAME FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

from comparison.whole_folder import whole

SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT-B/16": ("ViT", {}),  # transformers' defaults
    "ViT-Ti/16": (
        "ViT",
        {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    ),
    "DINOv2-B/14": ("Dinov2", {}),
    "SigLIP-B/16": ("Siglip", {}),
}
"""How transformers begins the names of the family's classes, and what differs from its defaults."""


def main(name: str, folder: Path) -> None:
    """Write config, weights and preprocessor; the folder appears whole or not at all."""
    import torch
    import transformers

    torch.manual_seed(0)
    family, differing = SIZES[name]
    config: Any = {"num_labels": 1000, **differing}
    make = getattr(transformers, f"{family}ForImageClassification")
    model = make(getattr(transformers, f"{family}Config")(**config))
    half = [0.5, 0.5, 0.5]
    preprocessor = {
        "image_processor_type": "ViTImageProcessor",
        "size": 224,
        "do_normalize": True,
        "image_mean": half,
        "image_std": half,
    }
    with whole(folder) as partial:
        model.save_pretrained(partial)
        (partial / "preprocessor_config.json").write_text(json.dumps(preprocessor))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
