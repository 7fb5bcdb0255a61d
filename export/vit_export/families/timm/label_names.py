"""The labels of a timm checkpoint, in the order of its logits."""

from collections.abc import Mapping
from importlib import resources

from vit_engine.errors import CheckpointError
from vit_export.families.family import Config
from vit_export.families.transformers.config import section

IMAGENET = {
    1000: "imagenet-1k",
    11221: "imagenet-21k-miil",
    11821: "imagenet-12k",
    21841: "imagenet-22k",
    21842: "imagenet-22k-ms",
    21843: "imagenet-21k-goog",
}
"""timm's guess at what a model that names no labels was trained on, by their number."""
FIRST = 1000
"""Whose labels lie here, one a line; timm has those of the others."""


def labels_from_timm(config: Config) -> tuple[str, ...]:
    """Return the label of each logit: its description where there is one, else its name.

    Where config.json names none, they are ImageNet's if there are as many.
    """
    pretrained = section(config, "pretrained_cfg")
    number = config.get("num_classes", config.get("num_labels", pretrained.get("num_classes")))
    if type(number) is not int or number < 0:
        raise CheckpointError(f"num_classes is {number!r}, expected a whole number above 0")
    if number == 0:
        raise CheckpointError(
            "num_classes is 0, so it is a backbone without a head; supported are classifiers"
        )
    names = config.get("label_names", pretrained.get("label_names"))
    if not names:
        return _imagenet(IMAGENET[number]) if number in IMAGENET else _unnamed(number)
    found = _in_order(names)
    if len(found) != number:
        raise CheckpointError(f"label_names has {len(found)} names, num_classes is {number}")
    described = config.get("label_descriptions", pretrained.get("label_descriptions")) or {}
    if not isinstance(described, dict):
        raise CheckpointError(f"label_descriptions is {described!r:.80}, expected a table")
    return tuple(str(described.get(name, name)) for name in found)


def _unnamed(number: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{i}" for i in range(number))  # as transformers calls them


def _in_order(names: object) -> list[str]:
    if isinstance(names, Mapping):
        keys = [str(i) for i in range(len(names))]
        if set(names) != set(keys):
            raise CheckpointError('label_names is not a table {"0": name, ...} without gaps')
        names = [names[key] for key in keys]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"label_names is {names!r:.80}, expected a list of names")
    return names


def _imagenet(subset: str) -> tuple[str, ...]:
    if subset == IMAGENET[FIRST]:
        return tuple(
            resources.files(__package__).joinpath("imagenet1k.txt").read_text("utf-8").splitlines()
        )
    try:
        from timm.data import ImageNetInfo
    except ImportError as e:
        raise CheckpointError(
            f"config.json names no labels, and those of {subset} come with timm: "
            "python -m pip install 'vit-engine[timm]'"
        ) from e
    return tuple(ImageNetInfo(subset).label_descriptions())
