"""What sets a family of checkpoints apart from the others; a file of its own fills one in."""

from collections.abc import Callable
from dataclasses import dataclass

from vit_export.families.config import Config
from vit_export.families.form import Form

Names = dict[str, str]
"""One convention of naming: the name on disk of each canonical layer or tensor. A `*` in both is
the number of a block; a layer's `.weight` and `.bias` are called so on both sides."""


@dataclass(frozen=True)
class Family:
    """How a checkpoint of this family is known, read and named."""

    model_type: str  # in config.json
    architecture: str  # the one entry of its `architectures`: the class in transformers
    form: Callable[[Config], Form]  # CheckpointError for a config of another kind of ViT
    conventions: tuple[Names, ...]  # a tensor may be stored under its name in any of them
    unread: tuple[str, ...]  # prefixes of names on disk that a classifier never reads
    image_processor: str  # in transformers, of a preprocessor_config.json that names none

    def stored_names(self, form: Form, labels: int) -> list[dict[str, str]]:
        """Return, for each convention, the name on disk of every tensor by its canonical name."""
        tensors = [name for name, _ in form.shapes(labels)]
        return [_stored_names(tensors, _numbered(names, form.layers)) for names in self.conventions]


def _numbered(names: Names, layers: int) -> Names:
    return {
        ours.replace("*", str(i)): theirs.replace("*", str(i))
        for ours, theirs in names.items()
        for i in range(layers if "*" in ours else 1)
    }


def _stored_names(tensors: list[str], names: Names) -> dict[str, str]:
    stored = {}
    for tensor in tensors:
        layer, _, part = tensor.rpartition(".")
        stored[tensor] = names[tensor] if tensor in names else f"{names[layer]}.{part}"
    return stored
