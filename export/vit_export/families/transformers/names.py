"""The names under which transformers' ViTs store their tensors."""

from vit_export.families.family import Names

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
"""As transformers writes its files, here those of ViT itself."""

IN_MEMORY: Names = {
    **CLASSIC,
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

VISION_TOWER: Names = {
    "cls": "vision_model.embeddings.class_embedding",
    "positions": "vision_model.embeddings.position_embedding.weight",
    "patch": "vision_model.embeddings.patch_embedding",
    "pre_norm": "vision_model.pre_layrnorm",
    "blocks.*.norm1": "vision_model.encoder.layers.*.layer_norm1",
    "blocks.*.q": "vision_model.encoder.layers.*.self_attn.q_proj",
    "blocks.*.k": "vision_model.encoder.layers.*.self_attn.k_proj",
    "blocks.*.v": "vision_model.encoder.layers.*.self_attn.v_proj",
    "blocks.*.out": "vision_model.encoder.layers.*.self_attn.out_proj",
    "blocks.*.norm2": "vision_model.encoder.layers.*.layer_norm2",
    "blocks.*.fc1": "vision_model.encoder.layers.*.mlp.fc1",
    "blocks.*.fc2": "vision_model.encoder.layers.*.mlp.fc2",
    "norm": "vision_model.post_layernorm",
    "head": "classifier",
}
"""As CLIP and its descendants are stored, on disk and in memory."""
