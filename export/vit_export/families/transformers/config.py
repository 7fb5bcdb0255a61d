"""Values out of a config.json, each checked: a CheckpointError says what stands there instead."""

import math
from typing import Any

from vit_engine.errors import CheckpointError
from vit_export.families.family import Config
from vit_export.families.form import HiddenAct

# gelu_pytorch_tanh and gelu_fast are gelu_new's formula in other kernels.
ACTIVATIONS: dict[str, HiddenAct] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
"""What we compute for each name of transformers' `ACT2FN` that we know."""


def count(config: Config, key: str, default: int) -> int:
    """Return a whole number above 0."""
    value = config.get(key, default)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{key} is {value!r}, expected a whole number above 0")
    return value


def side(config: Config, key: str, default: int) -> int:
    """Return the side of a square, given as one number of pixels or as two equal ones."""
    value = config.get(key, default)
    if isinstance(value, list) and len(value) == 2:
        if value[0] != value[1]:
            raise CheckpointError(f"{key} is {value}; supported are squares")
        return count({key: value[0]}, key, default)
    return count(config, key, default)


def flag(config: Config, key: str, default: bool) -> bool:
    """Return true or false."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"{key} is {value!r}, expected true or false")
    return value


def number(config: Config, key: str, default: float) -> float:
    """Return a finite number of 0 or more."""
    value = config.get(key, default)
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise CheckpointError(f"{key} is {value!r}, expected a number of 0 or more")
    return float(value)


def epsilon(config: Config, key: str, default: float) -> float:
    """Return a finite number above 0."""
    value = config.get(key, default)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise CheckpointError(f"{key} is {value!r}, expected a number above 0")
    return float(value)


def activation(config: Config, key: str, default: str) -> HiddenAct:
    """Return a non-linearity that the graph has."""
    value = config.get(key, default)
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise CheckpointError(f"{key} is {value!r}; supported are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def section(config: Config, key: str) -> Config:
    """Return the table that is one of a config's values; where it is absent, an empty one."""
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise CheckpointError(f"{key} is {value!r}, expected a table")
    return value or {}


def vit_numbers(config: Config, *, epsilon_default: float, patch: int = 16) -> dict[str, Any]:
    """Return the keys that the configs of all ViTs have in common, as `Form` calls them."""
    require_rgb(config)
    return {
        "hidden_size": count(config, "hidden_size", 768),
        "layers": count(config, "num_hidden_layers", 12),
        "heads": count(config, "num_attention_heads", 12),
        "intermediate_size": count(config, "intermediate_size", 3072),
        "image_size": side(config, "image_size", 224),
        "patch_size": side(config, "patch_size", patch),
        "hidden_act": activation(config, "hidden_act", "gelu"),
        "layer_norm_eps": epsilon(config, "layer_norm_eps", epsilon_default),
        "unbiased": () if flag(config, "qkv_bias", True) else ("q", "k", "v"),
    }


def require_rgb(config: Config) -> None:
    """Refuse a model of other than 3 channels."""
    if (channels := config.get("num_channels", 3)) != 3:
        raise CheckpointError(f"num_channels is {channels!r}; supported is 3 (RGB)")
