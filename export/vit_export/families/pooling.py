"""How a form makes one vector of its tokens, in place of a classifier's logits."""

from dataclasses import replace

from vit_engine.artefact.contract import Pooling
from vit_engine.errors import CheckpointError
from vit_export.families.model_config import ModelConfig

PARTS: dict[Pooling, tuple[str, ...]] = {
    "cls": ("cls",),
    "mean": ("patches",),
    "cls+mean": ("cls", "patches"),
    "pooler": ("cls",),
    "map": ("map",),
}
"""What each pooling reads, side by side."""


def chosen_pooling(asked: Pooling | None, allowed: tuple[Pooling, ...]) -> Pooling:
    """Return the pooling asked for, by default the first; CheckpointError if it is not allowed."""
    if asked is None:
        return allowed[0]
    if asked not in allowed:
        raise CheckpointError(f"--pool {asked}: this model has {', '.join(allowed)}")
    return asked


def pooled_by(model_config: ModelConfig, pooling: Pooling, *, normalized: bool) -> ModelConfig:
    """Return the form that gives vectors; a projection that it has stays its head."""
    head = "tanh" if pooling == "pooler" else model_config.head
    return replace(
        model_config,
        pooled=PARTS[pooling],
        heads_averaged=False,
        head=head,
        normalized=normalized,
    )
