"""The text towers of CLIP, MetaCLIP 2 and SigLIP, by the names in config.json or open_clip's."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vit_engine.errors import CheckpointError
from vit_export.families.family import Config, Family, Names, Part, StoredShapes, renamed
from vit_export.families.image_tower import NAMES, activation
from vit_export.families.text_config import TextConfig
from vit_export.families.transformers.config import vit_numbers
from vit_export.families.transformers.names import VISION_TOWER
from vit_export.families.values import choice, count, flag, positive, section

SIGLIP_LENGTH = 64
"""Tokens that transformers' pipeline pads SigLIP's texts to, and cuts them off at."""

LEGACY_EOS = 2
"""What configs of CLIP from before transformers' #24773 say, whatever the end of a text is."""


def _numbers(text: Config, defaults: dict[str, Any], epsilon: float) -> dict[str, Any]:
    return {
        **vit_numbers({**defaults, **text}, epsilon_default=epsilon),
        "prefix": (),
        "positions": "none",
        "pooled": ("patches",),
        "vocabulary": count({**defaults, **text}, "vocab_size", 0),
        "rows": count({**defaults, **text}, "max_position_embeddings", 0),
    }


def clip_form(config: Config, _: StoredShapes) -> TextConfig:
    """Read config.json; absent keys have the values of transformers' CLIPTextConfig."""
    text = section(config, "text_config")
    defaults = {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_attention_heads": 8,
        "hidden_act": "quick_gelu",
        "vocab_size": 49408,
        "max_position_embeddings": 77,
    }
    numbers = _numbers(text, defaults, 1e-5)
    eos = count(text, "eos_token_id", 49407)
    legacy = eos == LEGACY_EOS and config.get("model_type") != "metaclip_2"  # which means it
    return TextConfig(
        **numbers | {"no_bias": ("head",)},
        causal=True,
        length=numbers["rows"],
        pooled_at="highest" if legacy else eos,
    )


def siglip_form(config: Config, _: StoredShapes) -> TextConfig:
    """Read config.json; absent keys have the values of transformers' SiglipTextConfig."""
    defaults = {
        "hidden_act": "gelu_pytorch_tanh",
        "vocab_size": 32000,
        "max_position_embeddings": 64,
    }
    return TextConfig(
        **_numbers(section(config, "text_config"), defaults, 1e-6),
        length=SIGLIP_LENGTH,
        pads_to_length=True,
    )


_TOWER: Names = {
    **{
        ours: theirs
        for ours, theirs in renamed(VISION_TOWER, r"^vision_model\.", "text_model.").items()
        if ours.startswith("blocks.")
    },
    "words": "text_model.embeddings.token_embedding.weight",
    "positions": "text_model.embeddings.position_embedding.weight",
    "norm": "text_model.final_layer_norm",
    "head": "text_projection",
}

CLIP_TEXT = Family(
    model_type="clip",
    architecture="CLIPModel",
    model_config=clip_form,
    conventions=(_TOWER,),
    unread=(
        "vision_model.",
        "visual_projection.",
        "logit_scale",
        "logit_bias",
        "text_model.embeddings.position_ids",
    ),
    image_processor="",
)

METACLIP_2_TEXT = replace(CLIP_TEXT, model_type="metaclip_2", architecture="MetaClip2Model")

SIGLIP_TEXT = replace(
    CLIP_TEXT,
    model_type="siglip",
    architecture="SiglipModel",
    model_config=siglip_form,
    conventions=({**_TOWER, "head": "text_model.head"},),
)

TEXT_FAMILIES = (CLIP_TEXT, METACLIP_2_TEXT, SIGLIP_TEXT)


def text_family_from_config(config: Config) -> Family:
    """Return the family whose text tower a config.json tells of; CheckpointError if none does."""
    for family in TEXT_FAMILIES:
        found = config.get("architectures") or [family.architecture]
        if config.get("model_type") == family.model_type and found == [family.architecture]:
            return family
    known = ", ".join(family.architecture for family in TEXT_FAMILIES)
    raise CheckpointError(
        f"it has no text tower: config.json describes model_type {config.get('model_type')!r}, "
        f"architectures {config.get('architectures')}; texts are for {known}"
    )


OPEN_CLIP_READ = {
    *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "norm_kwargs"),
    *("act_kwargs", "no_causal_mask", "pool_type", "eos_id", "proj_bias"),
}
OPEN_CLIP_WITHOUT_EFFECT = {
    *("hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode", "pad_id", "output_tokens"),
    *("proj_type", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
}
"""Keys that are the tokenizer's, or of which one value is supported."""


def open_clip_form(config: Config, _: StoredShapes) -> TextConfig:
    """Read open_clip_config.json; absent keys have the values of open_clip's CLIPTextCfg."""
    model = section(config, "model_cfg")
    text = section(model, "text_cfg")
    if name := text.get("hf_model_name"):
        raise CheckpointError(
            f"its text tower is transformers' {name}; supported are open_clip's own text towers, "
            "and --embed exports its vectors of images"
        )
    known = OPEN_CLIP_READ | OPEN_CLIP_WITHOUT_EFFECT
    if strange := sorted(key for key, value in text.items() if value and key not in known):
        raise CheckpointError(
            f"text_cfg has {', '.join(strange)}; supported are {', '.join(sorted(known))}"
        )
    choice(text, "proj_type", "linear", {"linear": None})
    width, length = count(text, "width", 512), count(text, "context_length", 77)
    both_ways = flag(text, "no_causal_mask", False)
    pools: Mapping[str, Any] = {"argmax": "highest", "last": "last", "eos": text.get("eos_id", 2)}
    pooled_at = choice(text, "pool_type", "argmax", pools)
    return TextConfig(
        hidden_size=width,
        layers=count(text, "layers", 12),
        heads=count(text, "heads", 8),
        intermediate_size=int(width * positive(text, "mlp_ratio", 4.0)),
        image_size=1,
        patch_size=1,
        hidden_act=activation(model, text),
        layer_norm_eps=positive(section(text, "norm_kwargs"), "eps", 1e-5),
        prefix=(),
        positions="none",
        pooled=("patches",),
        no_bias=() if flag(text, "proj_bias", False) else ("head",),
        causal=not both_ways,
        vocabulary=count(text, "vocab_size", 49408),
        rows=length,
        length=length,
        pads_to_length=both_ways or pooled_at == "last",
        pooled_at=pooled_at,
    )


_OPEN_CLIP: Names = {
    **{
        ours: theirs
        for ours, theirs in renamed(NAMES, r"^visual\.", "").items()
        if ours.startswith("blocks.")
    },
    "words": "token_embedding.weight",
    "positions": "positional_embedding",
    "norm": "ln_final",
    "head.weight": Part("text_projection", transposed=True),
}

OPEN_CLIP_TEXT = Family(
    model_type="open_clip",
    architecture="TextTransformer",
    model_config=open_clip_form,
    conventions=tuple(
        renamed(names, "^", prefix)
        for prefix in ("", "text.")
        for names in (
            _OPEN_CLIP,
            {
                **_OPEN_CLIP,
                "head.weight": "text_projection.weight",
                "head.bias": "text_projection.bias",
            },
        )
    ),
    unread=("visual.", "logit_scale", "logit_bias", "attn_mask", "text.attn_mask"),
    image_processor="",
)
