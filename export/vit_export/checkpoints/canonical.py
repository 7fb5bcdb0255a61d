"""A checkpoint's tensors under canonical names: the last place that knows their names on disk."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from vit_engine.errors import CheckpointError
from vit_export.families.family import Family, Part
from vit_export.families.model_config import ModelConfig
from vit_export.files.weight_files import Tensor

WRAPPERS = {
    "module.": "DataParallel or an EMA",
    "_orig_mod.": "torch.compile",
    "base_model.": "peft",
}
"""Who puts what before the names of a model's tensors."""
WRAPPED = re.compile("|".join(map(re.escape, WRAPPERS)))


def canonical(
    stored: Mapping[str, Tensor], family: Family, model_config: ModelConfig, outputs: int
) -> dict[str, Tensor]:
    """Return the tensors of a model, `ModelConfig.shapes`, out of those `stored` by name on disk.

    Each must be there once, finite, and of its shape, but for axes of length 1 in front. Tensors
    that lie in one on disk are split. Nothing else may be there. CheckpointError names a tensor as
    it is called on disk.
    """
    conventions = family.stored(model_config, outputs)
    usual = max(conventions, key=lambda parts: sum(p.stored in stored for p in parts.values()))
    tensors, used = {}, set()
    if wrapper := WRAPPED.match(next(iter(stored), "")):
        raise CheckpointError(
            f"its tensors' names begin with {wrapper[0]}, as {WRAPPERS[wrapper[0]]} leaves them; "
            "the library would make up others in their place; save the model inside the wrapper"
        )
    for name, shape in model_config.shapes(outputs):
        places = dict.fromkeys(parts[name] for parts in conventions if name in parts)
        there = [place for place in places if place.stored in stored]
        if not there:
            missing = usual.get(name, next(iter(places)))
            raise CheckpointError(f"tensor {missing.stored} {shape} is missing from the weights")
        if len(there) > 1:
            raise CheckpointError(
                f"the weights hold {there[0].stored} a second time, as {there[1].stored}"
            )
        tensors[name] = _part(stored[there[0].stored], there[0], shape)
        used.add(there[0].stored)
    _refuse_strange((n for n in stored if n not in used), family)
    return tensors


def _part(tensor: Tensor, part: Part, shape: tuple[int, ...]) -> Tensor:
    """Return the part of a stored tensor that is of that shape."""
    whole = (shape[0] * part.of, *shape[1:])
    tensor = tensor.T if part.transposed else tensor
    if _without_ones(tensor.shape) != _without_ones(whole):
        expected = (1,) * (tensor.ndim - len(whole)) + whole
        raise CheckpointError(
            f"tensor {part.stored} has shape {tensor.shape}, expected {expected} by config.json"
        )
    found = tensor.reshape(whole)[part.nth * shape[0] : (part.nth + 1) * shape[0]]
    if not np.isfinite(found).all():
        raise CheckpointError(f"tensor {part.stored} holds NaN or Inf")
    return found


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without the axes of length 1 in front."""
    first = next((i for i, length in enumerate(shape) if length != 1), len(shape))
    return shape[first:]


def _refuse_strange(names: Iterable[str], family: Family) -> None:
    strange = list(names)
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise CheckpointError(
            f"unexpected tensor {strange[0]}{more}; a {family.architecture} has none"
        )
