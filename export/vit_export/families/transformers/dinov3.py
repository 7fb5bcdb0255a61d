"""DINOv3 (arXiv:2508.10104): rotary positions of patches in place of a table; no classifier."""

from vit_export.families.family import Config, Family, Names, StoredShapes, renamed
from vit_export.families.model_config import ModelConfig, Rotary
from vit_export.families.transformers.config import vit_numbers
from vit_export.families.transformers.headless import of_tokens
from vit_export.families.values import count, flag, positive

ON_DISK: Names = {
    "cls": "embeddings.cls_token",
    "registers": "embeddings.register_tokens",
    "patch": "embeddings.patch_embeddings",
    "blocks.*.norm1": "layer.*.norm1",
    "blocks.*.q": "layer.*.attention.q_proj",
    "blocks.*.k": "layer.*.attention.k_proj",
    "blocks.*.v": "layer.*.attention.v_proj",
    "blocks.*.out": "layer.*.attention.o_proj",
    "blocks.*.scale1": "layer.*.layer_scale1.lambda1",
    "blocks.*.norm2": "layer.*.norm2",
    "blocks.*.fc1": "layer.*.mlp.up_proj",
    "blocks.*.gate": "layer.*.mlp.gate_proj",
    "blocks.*.fc2": "layer.*.mlp.down_proj",
    "blocks.*.scale2": "layer.*.layer_scale2.lambda1",
    "norm": "norm",
}

BIASES = {
    "query_bias": (True, ("q",)),
    "key_bias": (False, ("k",)),
    "value_bias": (True, ("v",)),
    "proj_bias": (True, ("out",)),
    "mlp_bias": (True, ("fc1", "gate", "fc2")),
}
"""By key of config.json: its default, and the layers that it is about."""


def form_from_config(config: Config, _: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values of transformers' DINOv3ViTConfig."""
    sizes = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
    numbers = vit_numbers({**sizes, **config}, epsilon_default=1e-5)
    registers = count(config, "num_register_tokens", 0) if config.get("num_register_tokens") else 0
    without = [names for key, (yes, names) in BIASES.items() if not flag(config, key, yes)]
    return ModelConfig(
        **numbers | {"no_bias": tuple(name for names in without for name in names)},
        prefix=(("cls", 1), ("registers", registers)),
        positions="none",
        layer_scale=True,
        gated=flag(config, "use_gated_mlp", False),
        rotary=Rotary(positive(config, "rope_theta", 100.0), centered=True, in_halves=True),
        head="none",
    )


DINOV3_VECTORS = Family(
    model_type="dinov3_vit",
    architecture="DINOv3ViTModel",
    model_config=form_from_config,
    conventions=(ON_DISK, renamed(ON_DISK, r"^layer\.", "model.layer.")),
    unread=("embeddings.mask_token",),
    image_processor="DINOv3ViTImageProcessor",
    takes_any_size=True,
    poolings=of_tokens,
)
