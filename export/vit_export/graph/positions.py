"""Positions inside attention: a bias by distance, and rotary embedding."""

import numpy as np
from onnxscript import OpBuilder, ir, nn

from vit_export.families.model_config import ModelConfig, Rotary
from vit_export.graph.weights import Array, Weights


def distance_bias(weights: Weights, model_config: ModelConfig, block: int) -> Array:
    """Return what is added to the attention scores of a block: (1, heads, T, T).

    A row of the stored table is a distance in rows and columns; its last three are those from CLS
    to any token, from any token to CLS, and of CLS to itself (BEiT).
    """
    table = weights[f"blocks.{block}.relative"][distances(model_config)]
    return table.transpose(2, 0, 1)[None]


def distances(model_config: ModelConfig) -> np.ndarray[tuple[int, int], np.dtype[np.intp]]:
    """Return the row of the table for each pair of tokens (T, T)."""
    grid, num_prefix_tokens = model_config.grid, model_config.num_prefix_tokens
    y, x = np.divmod(np.arange(grid * grid), grid)
    rows, columns = y[:, None] - y + grid - 1, x[:, None] - x + grid - 1
    between_patches = (2 * grid - 1) ** 2
    index = np.empty((model_config.tokens, model_config.tokens), np.intp)
    index[:num_prefix_tokens] = between_patches
    index[:, :num_prefix_tokens] = between_patches + 1
    index[:num_prefix_tokens, :num_prefix_tokens] = between_patches + 2
    index[num_prefix_tokens:, num_prefix_tokens:] = rows * (2 * grid - 1) + columns
    return index


class Rotation(nn.Module):
    """Rotary embedding of x (N, `tokens`, D); the prefix stays as it is.

    The checkpoint's load has put the channels of each head into halves: what turns together is
    half a head apart.
    """

    def __init__(
        self, weights: Weights, model_config: ModelConfig, rotary: Rotary, *, tokens: int
    ) -> None:
        super().__init__()
        self.heads, self.tokens, self.channels = (
            model_config.heads,
            tokens,
            model_config.hidden_size // model_config.heads,
        )
        angles: Array = np.zeros((tokens, self.channels // 2))
        angles[model_config.num_prefix_tokens :] = rotary.angles(model_config.grid, self.channels)
        cos, sin = np.cos(angles), np.sin(angles)
        self.cos = weights.parameter(np.concatenate([cos, cos], axis=1)[:, None])
        self.sin = weights.parameter(np.concatenate([-sin, sin], axis=1)[:, None])

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        x = op.Reshape(x, [0, self.tokens, self.heads, self.channels])
        first, second = op.Split(x, axis=-1, num_outputs=2, _outputs=2)
        swapped = op.Concat(second, first, axis=-1)
        y = op.Add(op.Mul(x, self.cos), op.Mul(swapped, self.sin))
        return op.Reshape(y, [0, self.tokens, self.heads * self.channels])
