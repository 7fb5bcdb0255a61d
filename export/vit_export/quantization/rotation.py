"""The residual stream and each head's values in a rotated basis (QuaRot, arXiv:2404.00456).

A random rotation mixes all channels, so that none of them stands out from its token, nor one weight
from its column, and 8-bit steps are finer. It goes into the layers on both sides: the float graph
computes what it did, with as many operators.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from vit_export.families.model_config import ModelConfig
from vit_export.files.weight_files import Tensor
from vit_export.graph.weights import Array

SEED = 0


def rotated(
    model_config: ModelConfig, tensors: Mapping[str, Tensor]
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the form and the tensors, those of a folded form, in a rotated basis.

    A norm before the blocks holds the stream to its channels, and one behind attention its values.
    A vector that is pooled of the stream itself gets a head, which turns it back.
    """
    result = dict(tensors)
    rng = np.random.default_rng(SEED)
    if not model_config.pre_norm:
        if model_config.head == "none" and "map" not in model_config.pooled:
            result["head.weight"] = np.eye(model_config.vector_size)
            model_config = replace(model_config, head="linear")
        _rotate_stream(model_config, result, _keeping_mean(model_config.hidden_size, rng))
    if not model_config.inner_norm:
        _rotate_values(
            model_config, result, _rotation(model_config.hidden_size // model_config.heads, rng)
        )
    return model_config, result


def _rotate_stream(model_config: ModelConfig, tensors: dict[str, Tensor], turn: Array) -> None:
    """Turn x to x @ turn between the blocks; norms, which follow the mean, see no difference."""
    for name in (*(name for name, _ in model_config.prefix), "positions"):
        if name in tensors:
            tensors[name] = tensors[name].astype(np.float64) @ turn
    writers, parts = ["patch"], len(model_config.pooled)
    for block in (f"blocks.{i}" for i in range(model_config.layers)):
        _read_norm(tensors, f"{block}.norm1", (f"{block}.{n}" for n in "qkv"), turn)
        first = (f"{block}.{n}" for n in (("fc1", "gate") if model_config.gated else ("fc1",)))
        _read_norm(tensors, f"{block}.norm2", first, turn)
        writers += [f"{block}.out", f"{block}.fc2"]
    for writer in writers:
        for name in (f"{writer}.weight", f"{writer}.bias"):
            if name in tensors:
                made = tensors[name].astype(np.float64)
                tensors[name] = np.tensordot(turn, made, (0, 0))
    readers = ["map.k", "map.v"] if "map" in model_config.pooled else ["head"]
    _read_norm(tensors, None if model_config.norm == "none" else "norm", readers, turn, parts)


def _read_norm(
    tensors: dict[str, Tensor],
    norm: str | None,
    readers: Iterable[str],
    turn: Array,
    parts: int = 1,
) -> None:
    """Have the readers of a norm's output, `parts` of it side by side, take it turned.

    The norm's own scale and shift go into them.
    """
    scale, shift = np.ones(len(turn)), np.zeros(len(turn))
    if norm:
        scale, shift = (tensors[f"{norm}.{n}"].astype(np.float64) for n in ("weight", "bias"))
        tensors[f"{norm}.weight"], tensors[f"{norm}.bias"] = np.ones_like(scale), shift * 0
    for reader in readers:
        matrix = tensors[f"{reader}.weight"].astype(np.float64)
        matrix = matrix.reshape(len(matrix), parts, -1)
        bias = tensors.get(f"{reader}.bias", np.zeros(len(matrix))).astype(np.float64)
        tensors[f"{reader}.bias"] = bias + (matrix @ shift).sum(1)
        tensors[f"{reader}.weight"] = ((matrix * scale) @ turn).reshape(len(matrix), -1)


def _rotate_values(model_config: ModelConfig, tensors: dict[str, Tensor], turn: Array) -> None:
    """Turn the values of each head, whose means attention's output is, and the output's weights."""
    for block in (f"blocks.{i}" for i in range(model_config.layers)):
        for name in (f"{block}.v.weight", f"{block}.v.bias"):
            if name in tensors:
                made = tensors[name].astype(np.float64)
                heads = made.reshape(model_config.heads, len(turn), -1)
                tensors[name] = (turn.T @ heads).reshape(made.shape)
        read = tensors[f"{block}.out.weight"].astype(np.float64)
        heads = read.reshape(len(read), model_config.heads, len(turn))
        tensors[f"{block}.out.weight"] = (heads @ turn).reshape(read.shape)


def _keeping_mean(channels: int, rng: np.random.Generator) -> Array:
    """Return a rotation that leaves a token's mean, and so its variance, what they are."""
    first = np.full((channels, 1), channels**-0.5)
    basis = np.linalg.qr(np.hstack([first, rng.normal(size=(channels, channels - 1))]))[0]
    others = basis[:, 1:]  # at right angles to a token of equal values
    return np.asarray(first @ first.T + others @ _rotation(channels - 1, rng) @ others.T)


def _rotation(channels: int, rng: np.random.Generator) -> Array:
    return np.asarray(np.linalg.qr(rng.normal(size=(channels, channels)))[0])
