"""timm: labels and preprocessing by `pretrained_cfg`, models by the name of an architecture."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from vit_engine.artefact.contract import MAX_COLOUR, Filter, Preprocessing, ResizeRule
from vit_engine.errors import CheckpointError
from vit_engine.machine.installation import pip_install
from vit_export.families.family import Config, Family
from vit_export.families.model_config import ModelConfig
from vit_export.families.timm.vision_transformer import POOLS, family_from_timm, is_timm
from vit_export.families.values import is_number, per_channel, section
from vit_export.files.json_file import read_json
from vit_export.files.weight_files import weight_files
from vit_export.packages.labels import unnamed
from vit_export.packages.optional import beside_torch, importing
from vit_export.packages.package import CONFIG, Model, Package, Processor

IMAGENET = {
    1000: "imagenet-1k",
    11221: "imagenet-21k-miil",
    11821: "imagenet-12k",
    21841: "imagenet-22k",
    21842: "imagenet-22k-ms",
    21843: "imagenet-21k-goog",
}
"""timm's guess at what a model that names no labels was trained on, by their number."""
INCLUDED = "imagenet-1k"
"""Whose labels lie here, one a line; timm has those of the others."""

DEFAULTS: Mapping[str, Any] = {
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "crop_mode": "center",
}
"""timm's own, for a key that is absent, null, 0 or empty."""

CROP_MODES: Mapping[str, ResizeRule] = {
    "center": "shortest_edge",
    "squash": "squash",
    "border": "within_rounded",
}


def labels_from_timm(config: Config) -> tuple[str, ...]:
    """Return the label of each logit: its description where there is one, else its name.

    Where config.json names none, they are ImageNet's if there are as many.
    """
    number, pretrained = _label_count(config), section(config, "pretrained_cfg")
    if number == 0:
        raise CheckpointError(
            "num_classes is 0, so it is a backbone without a head; --embed exports its vectors"
        )
    names = config.get("label_names", pretrained.get("label_names"))
    if not names:
        return _imagenet(IMAGENET[number]) if number in IMAGENET else unnamed(number)
    found = _in_order(names)
    if len(found) != number:
        raise CheckpointError(f"label_names has {len(found)} names, num_classes is {number}")
    described = config.get("label_descriptions", pretrained.get("label_descriptions")) or {}
    if not isinstance(described, dict):
        raise CheckpointError(f"label_descriptions is {described!r:.80}, expected a table")
    return tuple(str(described.get(name, name)) for name in found)


def _label_count(config: Config) -> int:
    pretrained = section(config, "pretrained_cfg")
    number = config.get("num_classes", config.get("num_labels", pretrained.get("num_classes")))
    if type(number) is not int or number < 0:
        raise CheckpointError(f"num_classes is {number!r}, expected a whole number")
    return number


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
    if subset == INCLUDED:
        text = resources.files(__package__).joinpath("imagenet1k.txt").read_text("utf-8")
        return tuple(text.splitlines())
    with importing(
        needed=f"config.json names no labels, and those of {subset} come with timm",
        install=pip_install("timm", *beside_torch()),
    ):
        from timm.data import ImageNetInfo
    return tuple(ImageNetInfo(subset).label_descriptions())


def preprocessing_from_pretrained_cfg(config: Config, image_size: int) -> Preprocessing:
    """Return what `timm.data.create_transform` does to an image for an input of `image_size`.

    `config` is a checkpoint's `pretrained_cfg`. CheckpointError for a value that timm refuses.
    """
    options = {key: config.get(key) or default for key, default in DEFAULTS.items()}
    share, mode = options["crop_pct"], options["crop_mode"]
    if not is_number(share) or share <= 0 or math.floor(image_size / share) < 1:
        raise CheckpointError(f"crop_pct is {share!r}, expected a share such as 0.875")
    # timm squashes and pads in modes of these names, and crops to the centre in any other.
    if mode not in CROP_MODES:
        raise CheckpointError(f"crop_mode is {mode!r}, expected one of {', '.join(CROP_MODES)}")
    if (name := options["interpolation"]) not in get_args(Filter):
        raise CheckpointError(
            f"interpolation is {name!r}, expected one of {', '.join(get_args(Filter))}"
        )
    mean, std = (per_channel(options, key) for key in ("mean", "std"))
    if 0 in std:
        raise CheckpointError(f"std is {options['std']}: it divides by zero")
    edge = math.floor(image_size / share)
    red, green, blue = (round(MAX_COLOUR * value) for value in mean)
    return Preprocessing(
        resize=(edge, edge),
        rule=CROP_MODES[mode],
        filter=name,
        crop=(image_size, image_size),
        anchor="centre_half_even",
        fill=(red, green, blue) if mode == "border" else (0, 0, 0),
        mean=mean,
        std=std,
    )


def _preprocessing(
    folder: Path, _: Family, model_config: ModelConfig, image_size: int | None
) -> tuple[Preprocessing, float]:
    pretrained = section(read_json(folder / CONFIG), "pretrained_cfg")
    size = image_size or model_config.image_size
    return preprocessing_from_pretrained_cfg(pretrained, size), 1.0 if image_size else 0.0


def _resized_configs(folder: Path, _: Family, size: int, _scale: float) -> dict[str, Any]:
    config = read_json(folder / CONFIG)
    config["pretrained_cfg"]["input_size"] = [3, size, size]
    return {CONFIG: config}


def _timm() -> Any:
    """Return the library; MachineError where it cannot be imported."""
    with importing(
        needed="the export is compared with timm's own model",
        install=f"{pip_install('timm', *beside_torch())}, or export with --no-verify",
    ):
        import timm
    return timm


def _model(folder: Path, family: Family, image_size: int | None) -> Model:
    timm, config = _timm(), read_json(folder / CONFIG)
    known = timm.models.PretrainedCfg.__dataclass_fields__
    model = timm.create_model(
        family.architecture,
        pretrained_cfg={k: v for k, v in config["pretrained_cfg"].items() if k in known},
        **{
            **(config.get("model_args") or {}),
            "num_classes": 0 if family.pooling else _label_count(config),
        },
    )
    state: dict[str, Any] = {}
    for path in weight_files(folder):
        state |= timm.models.load_state_dict(str(path), weights_only=True)
    reads = replace(family, pooling=None).reads  # timm's model has what its own pooling reads
    read = {k.removeprefix("timm_model."): v for k, v in state.items() if reads(k)}
    model.load_state_dict(read)
    model.float().eval()
    if image_size and not getattr(model, "dynamic_img_size", False):
        with warnings.catch_warnings(action="ignore"):  # torch's, of how timm resamples tables
            model.set_input_size((image_size, image_size))
    if family.pooling:
        return lambda pixels: _vectors(model, family, pixels)
    found: Model = model
    return found


def _vectors(model: Any, family: Family, pixels: Any) -> Any:
    """Return vectors (N, size), not normalised: timm's own, or pooled otherwise of its tokens."""
    import torch

    tokens = model.forward_features(pixels)
    if POOLS[model.global_pool] == family.pooling:
        return model.forward_head(tokens, pre_logits=True)
    parts = {"cls": tokens[:, 0], "mean": tokens[:, model.num_prefix_tokens :].mean(1)}
    names = family.pooling.split("+") if family.pooling else ()
    return model.fc_norm(torch.cat([parts[name] for name in names], dim=-1))


def _processor(folder: Path, preprocessing: Preprocessing, scale: float) -> Processor:
    timm, config = _timm(), read_json(folder / CONFIG)
    import torch

    transform = timm.data.create_transform(
        **timm.data.resolve_data_config(
            {"input_size": (3, *preprocessing.shape)} if scale else {},
            pretrained_cfg=config["pretrained_cfg"],
        )
    )
    return lambda images: torch.stack([transform(image.convert("RGB")) for image in images])


TIMM = Package(
    name="timm",
    owns=is_timm,
    family=family_from_timm,
    vector_family=partial(family_from_timm, vectors=True),
    labels=labels_from_timm,
    preprocessing=_preprocessing,
    resized_configs=_resized_configs,
    model=_model,
    processor=_processor,
    library=_timm,
)
