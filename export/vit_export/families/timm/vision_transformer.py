"""timm's ViTs: most of what they are shows in their tensors, the rest follows from their name."""

import difflib
import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Literal

from vit_engine.artefact.contract import Pooling
from vit_engine.errors import CheckpointError
from vit_export.families.family import Config, Family, StoredShapes, renamed
from vit_export.families.model_config import HiddenAct, ModelConfig
from vit_export.families.pooling import PARTS
from vit_export.families.timm.architectures import (
    ARCHITECTURES,
    HEAD_CHANNELS,
    ArchitectureDefaults,
)
from vit_export.families.timm.tensor_names import APART, FUSED, PACKED, VARIANT
from vit_export.families.values import choice, count, section

WRAPPER = "timm_wrapper"
"""What transformers calls a timm model that it has saved; its tensors begin with `timm_model.`."""

ACTIVATIONS: Mapping[str, HiddenAct] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
"""What we compute for each name of timm's `act_layer` that we know."""

POOLS: Mapping[str, Pooling] = {"token": "cls", "avg": "mean", "map": "map"}
"""Our word for each of timm's `global_pool`."""

READ = {"act_layer", "global_pool", "img_size", "num_heads"}
SHOWN = {
    *("class_token", "depth", "embed_dim", "fc_norm", "final_norm", "in_chans", "init_values"),
    *("mlp_ratio", "no_embed_class", "num_classes", "num_reg_tokens", "patch_size", "pos_embed"),
    *("pre_norm", "proj_bias", "qkv_bias", "qkv_fused", "reg_tokens", "scale_attn_inner"),
    *("scale_attn_norm", "scale_mlp_norm", "use_abs_pos_emb", "use_fc_norm"),
    *("use_pre_transformer_norm", "use_rel_pos_bias", "use_shared_rel_pos_bias"),
}
"""Arguments of a model whose effect its tensors show."""
WITHOUT_EFFECT = {
    *("attn_drop_rate", "drop_path_rate", "drop_rate", "dynamic_img_size", "fix_init"),
    *("head_init_scale", "patch_drop_rate", "pos_drop_rate", "proj_drop_rate", "weight_init"),
}
"""Arguments that a trained model, given images of one size, computes the same with."""


def is_timm(config: Config) -> bool:
    """Tell whether a config.json is timm's, or of a timm model that transformers has saved."""
    return config.get("model_type") in (None, WRAPPER) and "architecture" in config


def family_from_timm(config: Config, *, vectors: bool = False) -> Family:
    """Return the family of a timm checkpoint; CheckpointError if its architecture is not ours.

    With `vectors` the one that gives what a head reads, whether there is a head or not.
    """
    name, traits = _architecture(config)
    conventions = ({**FUSED, **PACKED}, VARIANT) if traits.packed else (FUSED, VARIANT, APART)
    return Family(
        model_type=WRAPPER,
        architecture=name,
        model_config=partial(form_from_config, vectors=vectors),
        conventions=(
            *conventions,
            *(renamed(names, r"^", "timm_model.") for names in conventions),
        ),
        unread=tuple(
            f"{prefix}{name}"
            for prefix in ("", "timm_model.")
            for name in (
                "mask_token",
                "blocks.*.attn.relative_position_index",
                "rel_pos_bias.relative_position_index",
                "rope.",
                *(("head.", "head_dist.") if vectors else ()),
            )
        ),
        poolings=poolings_from_timm if vectors else None,
        image_processor="TimmWrapperImageProcessor",
    )


def form_from_config(config: Config, shapes: StoredShapes, *, vectors: bool = False) -> ModelConfig:
    """Read config.json and the shapes of the tensors that lie beside it.

    With `vectors` the form has no head.
    """
    name, traits = _architecture(config)
    arguments, pretrained = section(config, "model_args"), section(config, "pretrained_cfg")
    _refuse_strange(arguments)
    stored = {key.removeprefix("timm_model."): shape for key, shape in shapes().items()}
    has = stored.__contains__
    for needed in ("patch_embed.proj.weight", "blocks.0.mlp.fc2.weight"):
        if not has(needed):
            raise CheckpointError(f"tensor {needed} is missing from the weights")
    if not vectors and not has("head.weight"):
        raise CheckpointError(
            "the weights have no head, so it is a backbone (num_classes 0); --embed exports its "
            "vectors"
        )
    hidden, inner = stored["blocks.0.mlp.fc2.weight"]
    _, channels, patch, other = stored["patch_embed.proj.weight"]
    if channels != 3:
        raise CheckpointError(f"the patches have {channels} channels; supported is 3 (RGB)")
    if patch != other:
        raise CheckpointError(f"patches are {patch}x{other}; supported are squares")
    prefix = tuple(
        (kind, stored[token][-2])
        for kind, token in (
            ("cls", "cls_token"),
            ("distillation", "dist_token"),
            ("registers", "reg_token"),
        )
        if has(token)
    )
    size = _image_size(arguments, pretrained, traits)
    positions, grid = _positions(stored, sum(number for _, number in prefix), size // patch)
    if has("norm.weight") and has("fc_norm.weight"):
        raise CheckpointError("the weights have a norm before and after pooling; supported is one")
    pooled = _pooled(arguments, pretrained, traits, [kind for kind, _ in prefix])
    gated = traits.packed or has("blocks.0.mlp.fc1_g.weight")
    layers = [("patch", "patch_embed.proj.bias"), ("out", "blocks.0.attn.proj.bias")]
    layers += [("fc2", "blocks.0.mlp.fc2.bias"), ("head", "head.bias")]
    first = next(n for n in ("fc1_x", "fc1") if has(f"blocks.0.mlp.{n}.weight"))
    layers += [(ours, f"blocks.0.mlp.{first}.bias") for ours in ("fc1", "gate")]
    no_bias = [ours for ours, theirs in layers if not has(theirs)]
    if not has("blocks.0.attn.qkv.bias"):
        no_bias += [
            part
            for part in "qkv"
            if not has(f"blocks.0.attn.{part}_bias") and not has(f"blocks.0.attn.{part}_proj.bias")
        ]
    return ModelConfig(
        hidden_size=hidden,
        layers=_layers(stored),
        heads=_heads(name, arguments, traits, hidden),
        intermediate_size=inner,
        image_size=size,
        patch_size=patch,
        hidden_act=_activation(arguments, traits),
        layer_norm_eps=traits.layer_norm_eps,
        prefix=prefix,
        positions=positions,
        table_grid=grid,
        antialias=True,
        denser_near=True,
        no_bias=tuple(no_bias),
        pre_norm=has("norm_pre.weight"),
        layer_scale=has("blocks.0.ls1.gamma") or has("blocks.0.gamma_1"),
        inner_norm=has("blocks.0.attn.norm.weight"),
        mlp_norm=has("blocks.0.mlp.norm.weight"),
        gated=gated,
        relative=has("blocks.0.attn.relative_position_bias_table")
        or has("rel_pos_bias.relative_position_bias_table"),
        rotary=traits.rotary,
        norm="tokens" if has("norm.weight") else "pooled" if has("fc_norm.weight") else "none",
        pooled=pooled,
        heads_averaged="distillation" in pooled and not vectors,
        head="none" if vectors else "linear",
    )


def poolings_from_timm(config: Config, shapes: StoredShapes) -> tuple[Pooling, ...]:
    """Return how the tokens can be pooled, as timm's `forward_head(pre_logits=True)` does first."""
    form = form_from_config(config, shapes, vectors=True)
    if "distillation" in form.pooled:
        raise CheckpointError(
            "timm's vector of it is the mean of two tokens, cls and distillation, which is not "
            "supported; export it as a classifier, without --embed"
        )
    has_cls = form.prefix[:1] == (("cls", 1),)
    own = next(pooling for pooling, parts in PARTS.items() if parts == form.pooled)
    others: list[Pooling] = ["cls", "mean"] if has_cls else ["mean"]
    if has_cls and form.norm != "pooled":  # which is of one part
        others.append("cls+mean")
    return (own, *(pooling for pooling in others if pooling != own))


def _architecture(config: Config) -> tuple[str, ArchitectureDefaults]:
    # What follows a dot tells how it was trained.
    name = str(config.get("architecture")).partition(".")[0]
    if traits := ARCHITECTURES.get(name):
        return name, traits
    near = difflib.get_close_matches(name, ARCHITECTURES, n=3)
    raise CheckpointError(
        f"timm's architecture {name!r} is not supported; supported are its ViT, flexivit, DeiT, "
        "DeiT III, CLIP, DINOv2, DINOv3, SigLIP, BEiT, EVA and EVA-02"
        + (f", such as {', '.join(near)}" if near else "")
    )


def _refuse_strange(arguments: Config) -> None:
    strange = sorted(set(arguments) - READ - SHOWN - WITHOUT_EFFECT)
    if strange:
        raise CheckpointError(
            f"model_args has {', '.join(strange)}; supported are "
            f"{', '.join(sorted(READ))} and what the tensors show"
        )


def _image_size(arguments: Config, pretrained: Config, traits: ArchitectureDefaults) -> int:
    """Return the side of the image in pixels, as timm resolves it for a saved model."""
    size = pretrained.get("input_size") or [3, 224, 224]
    if not isinstance(size, list) or len(size) != 3:
        raise CheckpointError(f"input_size is {size!r}, expected [channels, height, width]")
    sides = size[1:]
    given = arguments.get("img_size")
    if given is not None and not arguments.get("dynamic_img_size", traits.dynamic):
        sides = given if isinstance(given, list) else [given, given]
    if len(sides) != 2 or sides[0] != sides[1]:
        raise CheckpointError(f"the image is {sides}; supported are squares")
    return count({"input_size": sides[0]}, "input_size", 224)


def _positions(
    stored: Mapping[str, tuple[int, ...]], before: int, grid: int
) -> tuple[Literal["all", "patches", "none"], int]:
    """Return what the position table is of, and the patches along a side that it has rows for."""
    tables = [shape for name, shape in stored.items() if name.endswith("position_bias_table")]
    if "pos_embed" not in stored:
        side = (math.isqrt(tables[0][0] - 3) + 1) // 2 if tables else grid
        return "none", side
    rows = stored["pos_embed"][-2]
    kinds: tuple[tuple[Literal["all", "patches"], int], ...] = (("all", before), ("patches", 0))
    found = [
        (kind, math.isqrt(rows - others))
        for kind, others in kinds
        if rows > others and math.isqrt(rows - others) ** 2 == rows - others
    ]
    if not found:
        raise CheckpointError(f"pos_embed has {rows} rows, which no square of patches gives")
    return min(found, key=lambda table: table[1] != grid)


def _pooled(
    arguments: Config, pretrained: Config, traits: ArchitectureDefaults, prefix: list[str]
) -> tuple[str, ...]:
    pool = arguments.get("global_pool", pretrained.get("global_pool", traits.pool))
    pooling = choice({"global_pool": pool}, "global_pool", "", POOLS)
    if pooling == "cls" and prefix[:1] != ["cls"]:
        raise CheckpointError("global_pool is 'token', and the weights have no cls_token")
    if pooling == "cls" and "distillation" in prefix:
        return ("cls", "distillation")
    return PARTS[pooling]


def _layers(stored: Mapping[str, tuple[int, ...]]) -> int:
    blocks = [int(m[1]) for name in stored if (m := re.match(r"blocks\.(\d+)\.", name))]
    return max(blocks) + 1


def _heads(name: str, arguments: Config, traits: ArchitectureDefaults, hidden: int) -> int:
    if "num_heads" in arguments or traits.heads:
        return count(arguments, "num_heads", traits.heads or 1)
    if "embed_dim" in arguments or hidden % HEAD_CHANNELS:
        raise CheckpointError(
            f"the heads of a {name} with {hidden} channels are unknown; model_args must have "
            "num_heads"
        )
    return hidden // HEAD_CHANNELS


def _activation(arguments: Config, traits: ArchitectureDefaults) -> HiddenAct:
    if arguments.get("act_layer") is None:
        return traits.hidden_act
    return choice(arguments, "act_layer", "", ACTIVATIONS)
