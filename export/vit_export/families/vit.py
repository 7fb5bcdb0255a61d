"""ViT (arXiv:2010.11929) and what shares its class, such as DeiT without a distillation token."""

from vit_export.families.config import Config, activation, count, epsilon, flag, require_rgb, side
from vit_export.families.family import Family, Names
from vit_export.families.form import Form


def form_from_config(config: Config) -> Form:
    """Read config.json; absent keys have the values that transformers' ViTConfig gives them."""
    require_rgb(config)
    return Form(
        hidden_size=count(config, "hidden_size", 768),
        layers=count(config, "num_hidden_layers", 12),
        heads=count(config, "num_attention_heads", 12),
        intermediate_size=count(config, "intermediate_size", 3072),
        image_size=side(config, "image_size", 224),
        patch_size=side(config, "patch_size", 16),
        hidden_act=activation(config, "hidden_act", "gelu"),
        layer_norm_eps=epsilon(config, "layer_norm_eps", 1e-12),
        qkv_bias=flag(config, "qkv_bias", True),
    )


CLASSIC: Names = {
    "cls": "vit.embeddings.cls_token",
    "positions": "vit.embeddings.position_embeddings",
    "patch": "vit.embeddings.patch_embeddings.projection",
    "blocks.*.norm1": "vit.encoder.layer.*.layernorm_before",
    "blocks.*.q": "vit.encoder.layer.*.attention.attention.query",
    "blocks.*.k": "vit.encoder.layer.*.attention.attention.key",
    "blocks.*.v": "vit.encoder.layer.*.attention.attention.value",
    "blocks.*.out": "vit.encoder.layer.*.attention.output.dense",
    "blocks.*.norm2": "vit.encoder.layer.*.layernorm_after",
    "blocks.*.fc1": "vit.encoder.layer.*.intermediate.dense",
    "blocks.*.fc2": "vit.encoder.layer.*.output.dense",
    "norm": "vit.layernorm",
    "head": "classifier",
}
"""As transformers writes its files."""

IN_MEMORY: Names = CLASSIC | {
    "blocks.*.norm1": "vit.layers.*.layernorm_before",
    "blocks.*.q": "vit.layers.*.attention.q_proj",
    "blocks.*.k": "vit.layers.*.attention.k_proj",
    "blocks.*.v": "vit.layers.*.attention.v_proj",
    "blocks.*.out": "vit.layers.*.attention.o_proj",
    "blocks.*.norm2": "vit.layers.*.layernorm_after",
    "blocks.*.fc1": "vit.layers.*.mlp.fc1",
    "blocks.*.fc2": "vit.layers.*.mlp.fc2",
}
"""As transformers 5 names its modules, so also a state dict saved by other means."""

VIT = Family(
    model_type="vit",
    architecture="ViTForImageClassification",
    form=form_from_config,
    conventions=(CLASSIC, IN_MEMORY),
    unread=("vit.pooler.",),  # it belongs to ViTModel
    image_processor="ViTImageProcessor",
)
