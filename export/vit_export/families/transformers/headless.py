"""The families of `--embed`: a classifier's, without the head."""

from collections.abc import Callable
from dataclasses import replace

from vit_engine.artefact.contract import Pooling
from vit_export.families.family import Config, Family, Names, StoredShapes, renamed
from vit_export.families.model_config import ModelConfig

Poolings = Callable[[Config, StoredShapes], tuple[Pooling, ...]]


def without_head(
    family: Family, architecture: str, prefix: str, *, poolings: Poolings, unread: tuple[str, ...]
) -> Family:
    """Return the family of the library's class `architecture`, which gives no logits.

    Its files name tensors with or without `prefix`; those of the classifier hold it too, with a
    head that is left unread as what `unread` names.
    """

    def form(config: Config, shapes: StoredShapes) -> ModelConfig:
        model_config = family.model_config(config, shapes)
        return replace(model_config, heads_averaged=False, head="none")

    def both(names: Names) -> tuple[Names, Names]:
        named = {**names, "head": f"{prefix}pooler.dense"}
        return named, renamed(named, f"^{prefix}", "")

    unread = (*(name for name in family.unread if "pooler" not in name), *unread)
    return replace(
        family,
        architecture=architecture,
        classes=(family.architecture,),
        model_config=form,
        conventions=tuple(variant for names in family.conventions for variant in both(names)),
        unread=(*unread, *(n.removeprefix(prefix) for n in unread), "classifier."),
        poolings=poolings,
    )


def has_pooler(shapes: StoredShapes) -> bool:
    """Tell whether the weights hold a dense layer after CLS."""
    return any(name.endswith("pooler.dense.weight") for name in shapes())


def of_tokens(_: Config, shapes: StoredShapes) -> tuple[Pooling, ...]:
    """Return what a ViT with a CLS token allows: its pooler first, where it has one."""
    return (*(("pooler",) if has_pooler(shapes) else ()), "cls", "mean", "cls+mean")
