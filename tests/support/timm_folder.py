"""A folder as timm writes it, made without timm."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

CONFIG: dict[str, Any] = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 3,
    "model_args": {"img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "pretrained_cfg": {"input_size": [3, 32, 32], "num_classes": 3},
}
SHAPES: dict[str, tuple[int, ...]] = {
    "cls_token": (1, 1, 16),
    "pos_embed": (1, 5, 16),
    "patch_embed.proj.weight": (16, 3, 16, 16),
    "patch_embed.proj.bias": (16,),
    "blocks.0.norm1.weight": (16,),
    "blocks.0.norm1.bias": (16,),
    "blocks.0.attn.qkv.weight": (48, 16),
    "blocks.0.attn.qkv.bias": (48,),
    "blocks.0.attn.proj.weight": (16, 16),
    "blocks.0.attn.proj.bias": (16,),
    "blocks.0.norm2.weight": (16,),
    "blocks.0.norm2.bias": (16,),
    "blocks.0.mlp.fc1.weight": (64, 16),
    "blocks.0.mlp.fc1.bias": (64,),
    "blocks.0.mlp.fc2.weight": (16, 64),
    "blocks.0.mlp.fc2.bias": (16,),
    "norm.weight": (16,),
    "norm.bias": (16,),
    "head.weight": (3, 16),
    "head.bias": (3,),
}


def write_timm_folder(
    folder: Path,
    config: dict[str, Any] = CONFIG,
    shapes: dict[str, tuple[int, ...]] = SHAPES,
    prefix: str = "",
) -> str:
    """Write random weights of these shapes, their names behind `prefix`."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    tensors = {prefix + k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return str(folder)
