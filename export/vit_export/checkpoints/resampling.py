"""Position tables for images of another size than that of the training, as the libraries do it."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from vit_export.checkpoints.weight_files import Tensor
from vit_export.families.form import Form

CLS_DISTANCES = 3
"""Rows at the end of a table by distance: from CLS, to CLS, and of CLS to itself."""


def resampled(form: Form, tensors: Mapping[str, Tensor]) -> tuple[Form, dict[str, Tensor]]:
    """Return the form with tables of the image's own size, and the tensors of that form."""
    result = dict(tensors)
    if form.table_grid not in (0, form.grid):
        if form.positions != "none":
            table = result["positions"]
            head = len(table) - form.table_grid**2
            patches = _resized(table[head:], form.grid, mode="bicubic", antialias=form.antialias)
            result["positions"] = np.concatenate([table[:head], patches])
        for name in [f"blocks.{i}.relative" for i in range(form.layers) if form.relative]:
            table, rest = result[name][:-CLS_DISTANCES], result[name][-CLS_DISTANCES:]
            distances = _resized(table, 2 * form.grid - 1, mode="bilinear", antialias=False)
            result[name] = np.concatenate([distances, rest])
    return replace(form, table_grid=0), result


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
