"""What a form has beside its products goes into them, exactly, before there is a graph.

LayerScale, heads whose logits are averaged, and biases that only some of query, key and value have:
a product then has all of them or none. In float64.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from vit_export.families.model_config import ModelConfig
from vit_export.files.weight_files import Tensor

QKV = ("q", "k", "v")


def folded(
    model_config: ModelConfig, tensors: Mapping[str, Tensor]
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the form without LayerScale and further heads, and the tensors of that form."""
    result = dict(tensors)
    for i in range(model_config.layers):
        block = f"blocks.{i}"
        if model_config.layer_scale:
            _scale_outputs(result, f"{block}.out", result.pop(f"{block}.scale1"))
            _scale_outputs(result, f"{block}.fc2", result.pop(f"{block}.scale2"))
        if 0 < len(_biased(model_config)) < len(QKV):
            for part in set(QKV) - _biased(model_config):
                result[f"{block}.{part}.bias"] = np.zeros(model_config.hidden_size)
        if model_config.rotary and not model_config.rotary.in_halves:
            for name in (f"{block}.{part}.{kind}" for part in "qk" for kind in ("weight", "bias")):
                if name in result:
                    result[name] = _halves(result[name], model_config.heads)
    no_bias = model_config.no_bias
    if _biased(model_config):
        no_bias = tuple(layer for layer in no_bias if layer not in QKV)
    if model_config.heads_averaged:
        _average_heads(result, model_config.pooled)
    return replace(model_config, layer_scale=False, heads_averaged=False, no_bias=no_bias), result


def _biased(model_config: ModelConfig) -> set[str]:
    return set(QKV) - set(model_config.no_bias)


def _scale_outputs(tensors: dict[str, Tensor], layer: str, scale: Tensor) -> None:
    """Multiply a layer's outputs by a scale (channels,)."""
    for name in (f"{layer}.weight", f"{layer}.bias"):
        if name in tensors:
            made = tensors[name].astype(np.float64)
            tensors[name] = (made.T * scale.astype(np.float64)).T


def _average_heads(tensors: dict[str, Tensor], parts: tuple[str, ...]) -> None:
    """Make one head of those of the parts: its input is the parts side by side."""
    weights = [tensors.pop(f"head.{part}.weight").astype(np.float64) for part in parts]
    tensors["head.weight"] = np.concatenate(weights, axis=1) / len(parts)
    biases = [tensors.pop(f"head.{part}.bias").astype(np.float64) for part in parts]
    tensors["head.bias"] = np.mean(biases, axis=0)


def _halves(tensor: Tensor, heads: int) -> Tensor:
    """Reorder each head's channels from pairs to halves: 0, 2, 4, ..., then 1, 3, 5, ...

    Attention's scores stay, since query and key are reordered alike; a rotation then takes two
    slices in place of many.
    """
    pairs = tensor.reshape(heads, -1, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)
