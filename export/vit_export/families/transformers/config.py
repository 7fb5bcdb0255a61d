"""What the configs of transformers' ViTs have in common."""

import re
from typing import Any

from vit_engine.errors import CheckpointError
from vit_export.families.family import Config
from vit_export.families.model_config import HiddenAct
from vit_export.families.values import choice, count, flag, positive, section, side

# What is gelu_new here is its formula in other kernels.
ACTIVATIONS: dict[str, HiddenAct] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_accurate": "gelu_new",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "mish": "mish",
    "leaky_relu": "leaky_relu",
    "linear": "linear",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}
"""What we compute for each name of transformers' `ACT2FN` that we know."""

VISION_ALONE = "_vision_model"
"""How the model_type of an image tower ends that is stored without its text tower."""


def vit_numbers(config: Config, *, epsilon_default: float, patch: int = 16) -> dict[str, Any]:
    """Return the keys that the configs of all ViTs have in common, as `ModelConfig` calls them."""
    if (channels := config.get("num_channels", 3)) != 3:
        raise CheckpointError(f"num_channels is {channels!r}; supported is 3 (RGB)")
    return {
        "hidden_size": count(config, "hidden_size", 768),
        "layers": count(config, "num_hidden_layers", 12),
        "heads": count(config, "num_attention_heads", 12),
        "intermediate_size": count(config, "intermediate_size", 3072),
        "image_size": side(config, "image_size", 224),
        "patch_size": side(config, "patch_size", patch),
        "hidden_act": choice(config, "hidden_act", "gelu", ACTIVATIONS),
        "layer_norm_eps": positive(config, "layer_norm_eps", epsilon_default),
        "no_bias": () if flag(config, "qkv_bias", True) else ("q", "k", "v"),
    }


def class_name(config: Config, default: str) -> str:
    """Return the class that a config.json names, else the `default`, or its image tower alone."""
    if names := config.get("architectures"):
        return str(names[0])
    alone = str(config.get("model_type")).endswith(VISION_ALONE)
    return re.sub("Model$", "VisionModel", default) if alone else default


def vision_config(config: Config) -> Config:
    """Return the part of a config.json that is about images, which may be all of it."""
    whole = str(config.get("model_type")).endswith(VISION_ALONE)
    return config if whole else section(config, "vision_config")
