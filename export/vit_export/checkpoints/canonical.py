"""A checkpoint's tensors under canonical names: the last place that knows their names on disk."""

from collections.abc import Iterable, Mapping

import numpy as np

from vit_engine.errors import CheckpointError
from vit_export.checkpoints.weight_files import Tensor
from vit_export.families.family import Family
from vit_export.families.form import Form


def canonical(
    stored: Mapping[str, Tensor], family: Family, form: Form, labels: int
) -> dict[str, Tensor]:
    """Return the tensors of `form` (see `Form.shapes`) out of those `stored` by name on disk.

    Each must be there once, finite, and of its shape; more axes, in front and of length 1, fall
    off. Nothing else may be there, except what the family's classifiers never read.
    CheckpointError names a tensor as it is called on disk.
    """
    conventions = family.stored_names(form, labels)
    usual = max(conventions, key=lambda names: sum(name in stored for name in names.values()))
    tensors, used = {}, set()
    for name, shape in form.shapes(labels):
        there = [n for n in dict.fromkeys(names[name] for names in conventions) if n in stored]
        if not there:
            raise CheckpointError(f"tensor {usual[name]} {shape} is missing from the weights")
        if len(there) > 1:
            raise CheckpointError(f"the weights hold {there[0]} a second time, as {there[1]}")
        tensor = stored[there[0]]
        expected = (1,) * (tensor.ndim - len(shape)) + shape
        if tensor.shape != expected:
            raise CheckpointError(
                f"tensor {there[0]} has shape {tensor.shape}, expected {expected} "
                f"by config.json with its {labels} labels"
            )
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"tensor {there[0]} holds NaN or Inf")
        tensors[name] = tensor.reshape(shape)
        used.add(there[0])
    _refuse_strange((n for n in stored if n not in used), family)
    return tensors


def _refuse_strange(names: Iterable[str], family: Family) -> None:
    strange = [n for n in names if not n.startswith(family.unread)]
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise CheckpointError(
            f"unexpected tensor {strange[0]}{more}; a {family.architecture} has none"
        )
