"""The image towers of open_clip: its own ViT, and timm's behind its projection."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from vit_engine.artefact.contract import Pooling
from vit_engine.errors import CheckpointError
from vit_export.families.family import Config, Family, Names, Part, StoredShapes, renamed
from vit_export.families.model_config import HiddenAct, ModelConfig
from vit_export.families.pooling import PARTS
from vit_export.families.timm.vision_transformer import family_from_timm
from vit_export.families.values import choice, count, flag, positive, section, side

BLOCK = "visual.transformer.resblocks.*"
NAMES: Names = {
    "cls": "visual.class_embedding",
    "positions": "visual.positional_embedding",
    "patch": "visual.conv1",
    "pre_norm": "visual.ln_pre",
    "blocks.*.norm1": f"{BLOCK}.ln_1",
    **{
        f"blocks.*.{part}.{kind}": Part(f"{BLOCK}.attn.in_proj_{kind}", nth, 3)
        for nth, part in enumerate("qkv")
        for kind in ("weight", "bias")
    },
    "blocks.*.out": f"{BLOCK}.attn.out_proj",
    "blocks.*.scale1": f"{BLOCK}.ls_1.gamma",
    "blocks.*.norm2": f"{BLOCK}.ln_2",
    "blocks.*.fc1": f"{BLOCK}.mlp.c_fc",
    "blocks.*.fc2": f"{BLOCK}.mlp.c_proj",
    "blocks.*.scale2": f"{BLOCK}.ls_2.gamma",
    "norm": "visual.ln_post",
    "head.weight": Part("visual.proj", transposed=True),
}

GELU: Mapping[str, HiddenAct] = {"none": "gelu", "tanh": "gelu_new"}
"""By PyTorch's word for how it is computed."""

TEXT = ("text", "transformer.", "token_embedding.", "positional_embedding", "ln_final.", "logit_")
"""How the names of tensors begin that do not look at images."""

POOLS: Mapping[str, Pooling] = {"tok": "cls", "avg": "mean"}
"""Our word for each `pool_type`."""

READ = {
    *("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "ls_init_value"),
    *("no_ln_pre", "final_ln_after_pool", "pool_type", "norm_kwargs", "act_kwargs"),
}
READ_OF_TIMM = {"timm_model_name", "timm_pool", "timm_proj", "image_size"}
WITHOUT_EFFECT = {
    *("patch_dropout", "pos_embed_type", "attn_pooler_queries", "attn_pooler_heads"),
    *("timm_model_pretrained", "timm_proj_bias", "timm_drop", "timm_drop_path"),
}
"""Keys that a trained model computes the same with, or whose effect the tensors show."""

TRUNK = "visual.trunk."


def is_open_clip(config: Config) -> bool:
    """Tell whether a config is open_clip's."""
    return "model_cfg" in config


def family_from_open_clip(config: Config) -> Family:
    """Return the family of an image tower's vectors; CheckpointError if it is not a ViT of ours."""
    model = section(config, "model_cfg")
    vision = section(model, "vision_cfg")
    if "multimodal_cfg" in model:
        raise CheckpointError("multimodal_cfg makes it CoCa; supported are CLIP and SigLIP")
    if isinstance(vision.get("layers"), list):
        raise CheckpointError("its image tower is a ResNet; supported are ViTs")
    is_timm = vision.get("timm_model_name") is not None
    known = (READ_OF_TIMM if is_timm else READ) | WITHOUT_EFFECT
    if strange := sorted(key for key, value in vision.items() if value and key not in known):
        raise CheckpointError(
            f"vision_cfg has {', '.join(strange)}; supported are {', '.join(sorted(known))}"
        )
    if is_timm:
        return _family_on_timm(model, vision)
    return Family(
        model_type="open_clip",
        architecture="VisionTransformer",
        model_config=partial(_form, model, vision),
        conventions=(NAMES,),
        unread=(*TEXT, "attn_mask"),
        image_processor="",
        poolings=lambda _, shapes: _own(_form(model, vision, config, shapes)),
    )


def _own(form: ModelConfig) -> tuple[Pooling]:
    """Return what is projected, which is the one pooling that there is."""
    return (next(pooling for pooling, parts in PARTS.items() if parts == form.pooled),)


def _form(model: Config, vision: Config, _config: Config, _shapes: StoredShapes) -> ModelConfig:
    """Read the config of open_clip's own ViT; absent keys have its CLIPVisionCfg's values."""
    width = count(vision, "width", 768)
    after_pool = flag(vision, "final_ln_after_pool", False)
    return ModelConfig(
        hidden_size=width,
        layers=count(vision, "layers", 12),
        heads=max(1, width // count(vision, "head_width", 64)),
        intermediate_size=int(width * positive(vision, "mlp_ratio", 4.0)),
        image_size=side(vision, "image_size", 224),
        patch_size=side(vision, "patch_size", 16),
        hidden_act=activation(model, vision),
        layer_norm_eps=positive(section(vision, "norm_kwargs"), "eps", 1e-5),
        antialias=True,
        no_bias=("patch", "head"),
        pre_norm=not flag(vision, "no_ln_pre", False),
        layer_scale=vision.get("ls_init_value") is not None,
        norm="pooled" if after_pool else "tokens",
        pooled=PARTS[choice(vision, "pool_type", "tok", POOLS)],
        projection=count(model, "embed_dim", 512),
    )


def activation(model: Config, tower: Config) -> HiddenAct:
    """Return the non-linearity of a tower of open_clip's own: QuickGELU, or one of the two GELU."""
    arguments = section(tower, "act_kwargs")
    if flag(model, "quick_gelu", False):
        if arguments:
            raise CheckpointError(f"act_kwargs is {dict(arguments)!r}, which QuickGELU has not")
        return "quick_gelu"
    if strange := sorted(set(arguments) - {"approximate"}):
        raise CheckpointError(f"act_kwargs has {', '.join(strange)}; supported is approximate")
    return choice(arguments, "approximate", "none", GELU)


def _family_on_timm(model: Config, vision: Config) -> Family:
    """Return the family of a tower of timm's, which has GELU where its name does not say else."""
    projection = vision.get("timm_proj", "linear") or ""
    if projection not in ("", "none", "linear"):
        raise CheckpointError(f"timm_proj is {projection!r}; supported are 'linear' and 'none'")
    size = side(vision, "image_size", 224)
    pool = vision.get("timm_pool", "avg")
    arguments = {} if projection == "linear" and not pool else {"global_pool": pool}
    config = {
        "architecture": vision["timm_model_name"],
        "model_args": arguments,
        "pretrained_cfg": {"input_size": [3, size, size]},
    }
    family = family_from_timm(config, vectors=True)
    head = {"head": "visual.head.proj" if projection == "linear" else f"{TRUNK}head"}

    def form(_: Config, shapes: StoredShapes) -> ModelConfig:
        stored = shapes()
        trunk = {name.removeprefix(TRUNK): shape for name, shape in stored.items()}
        found = family.model_config(config, lambda: trunk)
        if projection == "none":
            return found
        no_bias = {*found.no_bias, "head"} - (
            {"head"} if f"{head['head']}.bias" in stored else set()
        )
        return replace(
            found,
            head="linear",
            projection=count(model, "embed_dim", 512),
            no_bias=tuple(sorted(no_bias)),
        )

    return replace(
        family,
        model_type="open_clip",
        model_config=form,
        conventions=tuple(renamed(names, "^", TRUNK) | head for names in family.conventions),
        unread=(
            *TEXT,
            "attn_mask",
            *(f"{TRUNK}{name}" for name in family.unread if name not in ("head.", "head_dist.")),
        ),
        poolings=lambda config, shapes: _own(form(config, shapes)),
    )
