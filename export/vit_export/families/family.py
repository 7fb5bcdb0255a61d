"""What sets a family of checkpoints apart from the others; a file of its own fills one in."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from vit_engine.artefact.contract import Pooling
from vit_export.families.model_config import ModelConfig

Config = Mapping[str, Any]
"""A config.json, as it is read."""

StoredShapes = Callable[[], Mapping[str, tuple[int, ...]]]
"""Reads the weights, if need be, and returns their shapes by their names on disk."""


class Part(NamedTuple):
    """One of several tensors that lie in one on disk, below each other; maybe with axes swapped."""

    stored: str
    nth: int = 0
    of: int = 1
    transposed: bool = False


Names = Mapping[str, str | Part]
"""One convention of naming: the name on disk of each canonical layer or tensor. A `*` in both is
the number of a block; a layer's `.weight` and `.bias` are called so on both sides."""

READ_BY: Mapping[Pooling, str] = {
    "pooler": r"\.pooler\.dense\.",
    "map": r"\.attn_pool\.|\.head\.(probe|attention|layernorm|mlp)\b",
}
"""The layers on disk that one pooling alone reads, as patterns."""


OF_TRAINING = re.compile(r"(\w+\.)*(loss\w*|criterion|class_weights?|total_ops|total_params)\b")
"""Names of what training leaves in the weights, such as the classes' weights in its loss."""


@dataclass(frozen=True)
class Family:
    """How a checkpoint of this family is known, read and named."""

    model_type: str  # in config.json
    architecture: str  # the one entry of its `architectures`: the class in the library
    model_config: Callable[
        [Config, StoredShapes], ModelConfig
    ]  # CheckpointError for another kind of ViT
    conventions: tuple[Names, ...]  # a tensor may be stored under its name in any of them
    unread: tuple[str, ...]  # how names on disk begin that a classifier never reads; `*` as above
    image_processor: str  # in transformers, of a preprocessor config that names none
    takes_any_size: bool = False
    """Whether the library's model fits its position tables to the image without being told."""
    classes: tuple[str, ...] = ()
    """Further classes of the library whose files hold this one, which then is the reference."""
    poolings: Callable[[Config, StoredShapes], tuple[Pooling, ...]] | None = None
    """How it makes a vector of an image, what its library hands out first; None: a classifier."""
    pooling: Pooling | None = None
    """Which of them is meant, once that is known."""

    def stored(self, model_config: ModelConfig, labels: int) -> list[dict[str, Part]]:
        """Return, for each convention, where on disk every tensor is by its canonical name."""
        tensors = [name for name, _ in model_config.shapes(labels)]
        return [
            _stored(tensors, _numbered(names, model_config.layers)) for names in self.conventions
        ]

    def reads(self, name: str) -> bool:
        """Return whether the model has any use for the tensor of that name on disk."""
        if OF_TRAINING.match(name):
            return False
        of_others = [
            part for pooling, part in READ_BY.items() if self.pooling not in (None, pooling)
        ]
        if any(re.search(part, f".{name}") for part in of_others):
            return False
        patterns = (re.escape(start).replace(r"\*", r"\d+") for start in self.unread)
        return not any(re.match(pattern, name) for pattern in patterns)


def renamed(names: Names, pattern: str, new: str) -> dict[str, str | Part]:
    """Return the names on disk with a regular expression replaced in them."""

    def name(value: str | Part) -> str | Part:
        if isinstance(value, Part):
            return value._replace(stored=re.sub(pattern, new, value.stored))
        return re.sub(pattern, new, value)

    return {ours: name(theirs) for ours, theirs in names.items()}


def _numbered(names: Names, layers: int) -> dict[str, Part]:
    return {
        ours.replace("*", str(i)): part._replace(stored=part.stored.replace("*", str(i)))
        for ours, theirs in names.items()
        for part in [theirs if isinstance(theirs, Part) else Part(theirs)]
        for i in range(layers if "*" in ours else 1)
    }


def _stored(tensors: list[str], names: Mapping[str, Part]) -> dict[str, Part]:
    """Return what of `tensors` the names cover."""
    stored = {}
    for tensor in tensors:
        layer, _, kind = tensor.rpartition(".")
        if tensor in names:
            stored[tensor] = names[tensor]
        elif layer in names:
            part = names[layer]
            stored[tensor] = part._replace(stored=f"{part.stored}.{kind}")
    return stored
