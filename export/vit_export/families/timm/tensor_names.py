"""Under which names timm stores the tensors of its ViTs."""

from vit_export.families.family import Names, Part

FUSED: Names = {
    "cls": "cls_token",
    "distillation": "dist_token",
    "registers": "reg_token",
    "positions": "pos_embed",
    "patch": "patch_embed.proj",
    "pre_norm": "norm_pre",
    "blocks.*.norm1": "blocks.*.norm1",
    "blocks.*.q": Part("blocks.*.attn.qkv", 0, 3),
    "blocks.*.k": Part("blocks.*.attn.qkv", 1, 3),
    "blocks.*.v": Part("blocks.*.attn.qkv", 2, 3),
    "blocks.*.relative": "blocks.*.attn.relative_position_bias_table",
    "blocks.*.inner_norm": "blocks.*.attn.norm",
    "blocks.*.out": "blocks.*.attn.proj",
    "blocks.*.scale1": "blocks.*.ls1.gamma",
    "blocks.*.norm2": "blocks.*.norm2",
    "blocks.*.fc1": "blocks.*.mlp.fc1",
    "blocks.*.mlp_norm": "blocks.*.mlp.norm",
    "blocks.*.fc2": "blocks.*.mlp.fc2",
    "blocks.*.scale2": "blocks.*.ls2.gamma",
    "norm": "norm",
    "head": "head",
    "head.cls": "head",
    "head.distillation": "head_dist",
    "map.probe": "attn_pool.latent",
    "map.q": "attn_pool.q",
    "map.k": Part("attn_pool.kv", 0, 2),
    "map.v": Part("attn_pool.kv", 1, 2),
    "map.out": "attn_pool.proj",
    "map.norm": "attn_pool.norm",
    "map.fc1": "attn_pool.mlp.fc1",
    "map.fc2": "attn_pool.mlp.fc2",
}
"""As most are stored."""

VARIANT: Names = {
    "blocks.*.q.bias": "blocks.*.attn.q_bias",
    "blocks.*.v.bias": "blocks.*.attn.v_bias",
    "blocks.*.relative": "rel_pos_bias.relative_position_bias_table",
    "blocks.*.scale1": "blocks.*.gamma_1",
    "blocks.*.scale2": "blocks.*.gamma_2",
    "norm": "fc_norm",
}
"""What BEiT and EVA call otherwise, and any norm after pooling."""

APART: Names = {
    "blocks.*.q": "blocks.*.attn.q_proj",
    "blocks.*.k": "blocks.*.attn.k_proj",
    "blocks.*.v": "blocks.*.attn.v_proj",
    "blocks.*.gate": "blocks.*.mlp.fc1_g",
    "blocks.*.fc1": "blocks.*.mlp.fc1_x",
}
"""Where what others fuse is apart (the larger EVA-02)."""

PACKED: Names = {
    "blocks.*.gate": Part("blocks.*.mlp.fc1", 0, 2),
    "blocks.*.fc1": Part("blocks.*.mlp.fc1", 1, 2),
}
