"""The families of `--embed`: a classifier's, without the head."""

from collections.abc import Callable
from dataclasses import replace

from vit_engine.artefact.contract import Pooling
from vit_engine.errors import CheckpointError
from vit_export.families.family import Config, Family, Names, StoredShapes, renamed
from vit_export.families.model_config import ModelConfig
from vit_export.families.transformers.config import class_name
from vit_export.families.values import choice, count

Form = Callable[[Config, StoredShapes], ModelConfig]
Poolings = Callable[[Config, StoredShapes], tuple[Pooling, ...]]

TOKENS: tuple[Pooling, ...] = ("cls", "mean", "cls+mean")
"""What a model with a CLS token and a norm of each token allows."""


def without_head(
    family: Family, prefix: str, *, poolings: Poolings, classes: tuple[str, ...] = ()
) -> Family:
    """Return the family of the vectors of a classifier's, as its library's `...Model` gives them.

    Files of that class name tensors with or without `prefix`; those of the classifier, and of
    further `classes`, hold it too, with a head that is left unread.
    """

    def both(names: Names) -> tuple[Names, Names]:
        named = {**names, "head": f"{prefix}pooler.dense"}
        return named, renamed(named, f"^{prefix}", "")

    unread = [name for name in family.unread if "pooler" not in name]
    unread.append(f"{prefix}embeddings.mask_token")
    heads = ("classifier.", "cls_classifier.", "distillation_classifier.", "decoder.")
    return replace(
        family,
        architecture=family.architecture.partition("For")[0] + "Model",
        classes=(family.architecture, *classes),
        model_config=headless(family.model_config),
        conventions=tuple(variant for names in family.conventions for variant in both(names)),
        unread=(*unread, *(name.removeprefix(prefix) for name in unread), *heads),
        poolings=poolings,
    )


def headless(form: Form) -> Form:
    """Return what reads a classifier's config.json as that of the same model without its head."""
    return lambda config, shapes: replace(form(config, shapes), head="none")


def is_classifier(config: Config) -> bool:
    """Tell whether a config.json is of a class that gives logits."""
    return "ForImageClassification" in class_name(config, "")


def of_tokens(config: Config, shapes: StoredShapes) -> tuple[Pooling, ...]:
    """Return what a ViT with a CLS token allows: its pooler first, where its class has one."""
    if is_classifier(config) or not any("pooler.dense." in name for name in shapes()):
        return TOKENS
    choice(config, "pooler_act", "tanh", {"tanh": "tanh"})
    hidden = count(config, "hidden_size", 768)
    if (size := config.get("pooler_output_size") or hidden) != hidden:
        raise CheckpointError(f"pooler_output_size is {size!r}; supported is hidden_size, {hidden}")
    return ("pooler", *TOKENS)


def of_mean(_config: Config, _shapes: StoredShapes) -> tuple[Pooling, ...]:
    """Return what a model without a CLS token allows."""
    return ("mean",)
