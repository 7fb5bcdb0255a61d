"""Position tables for images of another size than that of the training, as the libraries do it."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vit_export.families.model_config import ModelConfig
from vit_export.files.weight_files import Tensor

CLS_DISTANCES = 3
"""Rows at the end of a table by distance: from CLS, to CLS, and of CLS to itself."""


def resampled(
    model_config: ModelConfig, tensors: Mapping[str, Tensor]
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the form with tables of the image's own size, and the tensors of that form."""
    result = dict(tensors)
    if model_config.table_grid not in (0, model_config.grid):
        if model_config.positions != "none":
            table = result["positions"]
            head = len(table) - model_config.table_grid**2
            patches = _resized(
                table[head:], model_config.grid, mode="bicubic", antialias=model_config.antialias
            )
            result["positions"] = np.concatenate([table[:head], patches])
        for name in [
            f"blocks.{i}.relative" for i in range(model_config.layers) if model_config.relative
        ]:
            table, rest = result[name][:-CLS_DISTANCES], result[name][-CLS_DISTANCES:]
            side = 2 * model_config.grid - 1
            if model_config.denser_near:
                distances = _read_denser_near(table, side)
            else:
                distances = _resized(table, side, mode="bilinear", antialias=False)
            result[name] = np.concatenate([distances, rest])
    return replace(model_config, table_grid=0), result


def _resized(table: Tensor, side: int, *, mode: str, antialias: bool) -> Tensor:
    """Resize a table (side before squared, channels) to (side squared, channels), in float32."""
    import torch

    before = round(len(table) ** 0.5)
    grid = torch.from_numpy(np.ascontiguousarray(table, np.float32))
    grid = grid.reshape(1, before, before, -1).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(
        grid, size=(side, side), mode=mode, align_corners=False, antialias=antialias
    )
    found: Tensor = resized[0].flatten(1).T.contiguous().numpy()
    return found


def _read_denser_near(table: Tensor, side: int) -> Tensor:
    """Resize a table by distance, whose rows are taken to lie the denser the nearer they are to 0.

    As BEiT's authors did it: they lie 1, q, q², ... apart on either side, so that the last is at
    the end of the new table, with q from 1.01 to 1.5; between them it is read linearly.
    """
    before = round(len(table) ** 0.5)
    places = _geometric(before // 2, side // 2)
    read_at = np.arange(side) - side // 2
    weights = np.stack([np.interp(read_at, places, row) for row in np.eye(before)], axis=1)
    grid = table.reshape(before, before, -1).astype(np.float64)
    found: Tensor = np.einsum("ai,bj,ijh->abh", weights, weights, grid).reshape(side * side, -1)
    return found


def _geometric(steps: int, end: int) -> NDArray[np.float64]:
    """Return places -e .. 0 .. e, `steps` on either side, each step q times as long as the last."""
    low, high, q = 1.01, 1.5, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        if (1 - q**steps) / (1 - q) > end:
            high = q
        else:
            low = q
    half = np.cumsum(q ** np.arange(steps))
    return np.concatenate([-half[::-1], [0], half])
