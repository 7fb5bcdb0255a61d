"""What leaves no tensor in a timm checkpoint, by the name of its architecture.

The heads, the epsilon of the norms, the non-linearity, the rotary embedding and the pooling that
each has in timm's own source. An architecture is here when `ModelConfig` can say all that it does.
"""

from dataclasses import dataclass
from typing import Literal

from vit_export.families.model_config import HiddenAct, Rotary

HEAD_CHANNELS = 64
"""Of a head, where an architecture does not say otherwise."""


@dataclass(frozen=True)
class ArchitectureDefaults:
    """The numbers and choices of an architecture that its tensors do not show."""

    heads: int | None = None  # None: as many as give each HEAD_CHANNELS
    layer_norm_eps: float = 1e-6
    hidden_act: HiddenAct = "gelu"
    pool: Literal["token", "avg", "map"] = "token"
    rotary: Rotary | None = None
    dynamic: bool = False  # takes images of any size, so that `img_size` is that of its table alone
    packed: bool = False  # gate and fc1 lie in one tensor, called fc1


EVA = Rotary(theta=10000.0, reference_grid=16)
ROPE_VIT = Rotary(theta=100.0, columns_first=True)  # arXiv:2403.13298
DINOV3 = Rotary(theta=100.0, centered=True, in_halves=True)


def _all(traits: ArchitectureDefaults, names: str) -> dict[str, ArchitectureDefaults]:
    return dict.fromkeys(names.split(), traits)


ARCHITECTURES: dict[str, ArchitectureDefaults] = {
    **_all(
        ArchitectureDefaults(pool="map"),
        """
        vit_base_patch16_siglip_224 vit_base_patch16_siglip_256 vit_base_patch16_siglip_384
        vit_base_patch16_siglip_512 vit_large_patch16_siglip_256 vit_large_patch16_siglip_384
        vit_so150m_patch16_reg4_map_256
        """,
    ),
    **_all(
        ArchitectureDefaults(hidden_act="gelu_new", pool="map"),
        """
        vit_base_patch32_siglip_256 vit_large_patch16_siglip_512
        """,
    ),
    **_all(
        ArchitectureDefaults(heads=16, pool="map"),
        """
        vit_so400m_patch14_siglip_224 vit_so400m_patch14_siglip_378
        vit_so400m_patch14_siglip_384
        """,
    ),
    **_all(
        ArchitectureDefaults(heads=16, hidden_act="gelu_new", pool="map"),
        """
        vit_giantopt_patch16_siglip_256 vit_giantopt_patch16_siglip_384
        vit_so400m_patch16_siglip_256 vit_so400m_patch16_siglip_384
        vit_so400m_patch16_siglip_512
        """,
    ),
    **_all(
        ArchitectureDefaults(layer_norm_eps=1e-5, pool="avg"),
        """
        beit3_base_patch16_224 beit3_large_patch16_224
        """,
    ),
    **_all(
        ArchitectureDefaults(layer_norm_eps=1e-5),
        """
        vit_base_patch16_clip_224 vit_base_patch16_clip_384 vit_base_patch16_plus_clip_240
        vit_base_patch32_clip_224 vit_base_patch32_clip_256 vit_base_patch32_clip_384
        vit_base_patch32_clip_448 vit_betwixt_patch32_clip_224 vit_large_patch14_clip_224
        vit_large_patch14_clip_336 vit_medium_patch16_clip_224 vit_medium_patch32_clip_224
        vit_xsmall_patch16_clip_224
        """,
    ),
    **_all(
        ArchitectureDefaults(layer_norm_eps=1e-5, hidden_act="quick_gelu"),
        """
        vit_base_patch16_clip_quickgelu_224 vit_base_patch32_clip_quickgelu_224
        vit_large_patch14_clip_quickgelu_224 vit_large_patch14_clip_quickgelu_336
        """,
    ),
    **_all(
        ArchitectureDefaults(pool="avg"),
        """
        beit_base_patch16_224 beit_base_patch16_384 beit_large_patch16_224
        beit_large_patch16_384 beit_large_patch16_512 beitv2_base_patch16_224
        beitv2_large_patch16_224 eva_large_patch14_196 eva_large_patch14_336
        vit_base_patch16_reg4_gap_256 vit_base_patch16_siglip_gap_224
        vit_base_patch16_siglip_gap_256 vit_base_patch16_siglip_gap_384
        vit_base_patch16_siglip_gap_512 vit_betwixt_patch16_gap_256
        vit_betwixt_patch16_reg1_gap_256 vit_betwixt_patch16_reg4_gap_256
        vit_betwixt_patch16_reg4_gap_384 vit_large_patch16_siglip_gap_256
        vit_large_patch16_siglip_gap_384 vit_little_patch16_reg1_gap_256
        vit_little_patch16_reg4_gap_256 vit_medium_patch16_gap_240
        vit_medium_patch16_gap_256 vit_medium_patch16_gap_384
        vit_medium_patch16_reg1_gap_256 vit_medium_patch16_reg4_gap_256
        vit_mediumd_patch16_reg4_gap_256 vit_mediumd_patch16_reg4_gap_384
        vit_so150m2_patch16_reg1_gap_256 vit_so150m2_patch16_reg1_gap_384
        vit_so150m2_patch16_reg1_gap_448 vit_so150m_patch16_reg4_gap_256
        vit_so150m_patch16_reg4_gap_384 vit_wee_patch16_reg1_gap_256
        """,
    ),
    **_all(
        ArchitectureDefaults(),
        """
        deit3_base_patch16_224 deit3_base_patch16_384 deit3_large_patch16_224
        deit3_large_patch16_384 deit3_medium_patch16_224 deit3_small_patch16_224
        deit3_small_patch16_384 deit_base_distilled_patch16_224
        deit_base_distilled_patch16_384 deit_base_patch16_224 deit_base_patch16_384
        deit_small_distilled_patch16_224 deit_small_patch16_224
        deit_tiny_distilled_patch16_224 deit_tiny_patch16_224 flexivit_base flexivit_large
        flexivit_small vit_base_patch14_dinov2 vit_base_patch14_reg1_tipsv2
        vit_base_patch14_reg4_dinov2 vit_base_patch16_224 vit_base_patch16_224_miil
        vit_base_patch16_384 vit_base_patch16_plus_240 vit_base_patch16_radio_v3
        vit_base_patch32_224 vit_base_patch32_384 vit_base_patch32_plus_256
        vit_base_patch8_224 vit_giant_patch16_radio_v3
        vit_large_patch14_224 vit_large_patch14_dinov2 vit_large_patch14_reg1_tipsv2
        vit_large_patch14_reg4_dinov2 vit_large_patch16_224 vit_large_patch16_384
        vit_large_patch16_radio_v3 vit_large_patch32_224 vit_large_patch32_384
        vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2 vit_small_patch16_224
        vit_small_patch16_36x1_224 vit_small_patch16_384 vit_small_patch32_224
        vit_small_patch32_384 vit_small_patch8_224 vit_tiny_patch16_224 vit_tiny_patch16_384
        """,
    ),
    **_all(
        ArchitectureDefaults(hidden_act="gelu_new", pool="avg"),
        """
        vit_base_patch32_siglip_gap_256 vit_large_patch16_siglip_gap_512
        """,
    ),
    **_all(
        ArchitectureDefaults(hidden_act="silu", packed=True),
        """
        vit_giant_patch14_dinov2 vit_giant_patch14_reg1_tipsv2 vit_giant_patch14_reg4_dinov2
        """,
    ),
    **_all(
        ArchitectureDefaults(pool="avg", rotary=EVA),
        """
        vit_base_patch16_rope_reg1_gap_256 vit_betwixt_patch16_rope_reg4_gap_256
        vit_medium_patch16_rope_reg1_gap_256 vit_mediumd_patch16_rope_reg1_gap_256
        """,
    ),
    **_all(
        ArchitectureDefaults(rotary=ROPE_VIT),
        """
        vit_base_patch16_rope_224 vit_base_patch16_rope_ape_224 vit_large_patch16_rope_224
        vit_large_patch16_rope_ape_224 vit_small_patch16_rope_224
        vit_small_patch16_rope_ape_224
        """,
    ),
    **_all(
        ArchitectureDefaults(hidden_act="silu", pool="avg", rotary=EVA),
        """
        eva02_base_patch14_224 eva02_base_patch14_448 eva02_large_patch14_224
        eva02_large_patch14_448
        """,
    ),
    **_all(
        ArchitectureDefaults(hidden_act="silu", pool="avg", rotary=EVA, packed=True),
        """
        eva02_small_patch14_224 eva02_small_patch14_336 eva02_tiny_patch14_224
        eva02_tiny_patch14_336
        """,
    ),
    **_all(
        ArchitectureDefaults(hidden_act="silu", rotary=EVA),
        """
        eva02_base_patch16_clip_224 eva02_large_patch14_clip_224
        eva02_large_patch14_clip_336
        """,
    ),
    **_all(
        ArchitectureDefaults(layer_norm_eps=1e-5, pool="avg", rotary=DINOV3, dynamic=True),
        """
        vit_base_patch16_dinov3 vit_base_patch16_dinov3_qkvb vit_large_patch16_dinov3
        vit_large_patch16_dinov3_qkvb vit_small_patch16_dinov3 vit_small_patch16_dinov3_qkvb
        vit_tiny_patch16_dinov3_qkvb
        """,
    ),
    **_all(
        ArchitectureDefaults(
            layer_norm_eps=1e-5, hidden_act="silu", pool="avg", rotary=DINOV3, dynamic=True
        ),
        """
        vit_huge_plus_patch16_dinov3 vit_huge_plus_patch16_dinov3_qkvb
        vit_small_plus_patch16_dinov3 vit_small_plus_patch16_dinov3_qkvb
        """,
    ),
    **_all(
        ArchitectureDefaults(dynamic=True),
        """
        vit_intern300m_patch14_448
        """,
    ),
    **_all(
        ArchitectureDefaults(heads=2, pool="avg", dynamic=True),
        """
        test_vit2
        """,
    ),
    **_all(
        ArchitectureDefaults(heads=2, dynamic=True),
        """
        test_vit
        """,
    ),
    **_all(
        ArchitectureDefaults(heads=16, layer_norm_eps=1e-5, pool="avg"),
        """
        beit3_giant_patch14_224 beit3_giant_patch14_336
        """,
    ),
    **_all(
        ArchitectureDefaults(heads=16, layer_norm_eps=1e-5),
        """
        vit_giant_patch14_clip_224 vit_gigantic_patch14_clip_224
        vit_gigantic_patch14_clip_378 vit_huge_patch14_clip_224 vit_huge_patch14_clip_336
        vit_huge_patch14_clip_378
        """,
    ),
    **_all(
        ArchitectureDefaults(heads=16, layer_norm_eps=1e-5, hidden_act="quick_gelu"),
        """
        vit_gigantic_patch14_clip_quickgelu_224 vit_huge_patch14_clip_quickgelu_224
        vit_huge_patch14_clip_quickgelu_378
        """,
    ),
    **_all(
        ArchitectureDefaults(heads=16, pool="avg"),
        """
        eva_giant_patch14_224 eva_giant_patch14_336 eva_giant_patch14_560
        vit_base_patch16_gap_224 vit_giant_patch16_gap_224 vit_huge_patch14_gap_224
        vit_huge_patch16_gap_448 vit_so400m_patch14_siglip_gap_224
        vit_so400m_patch14_siglip_gap_378 vit_so400m_patch14_siglip_gap_384
        vit_so400m_patch14_siglip_gap_448 vit_so400m_patch14_siglip_gap_896
        """,
    ),
    **_all(
        ArchitectureDefaults(heads=16),
        """
        deit3_huge_patch14_224 eva_giant_patch14_clip_224 vit_giant_patch14_224
        vit_gigantic_patch14_224 vit_huge_patch14_224 vit_huge_patch16_radio_v3
        vit_huge_patch16_radio_v4 vit_so400m_patch14_reg1_tipsv2 vit_so400m_patch16_radio_v4
        """,
    ),
    **_all(
        ArchitectureDefaults(heads=16, hidden_act="gelu_new", pool="avg"),
        """
        vit_giantopt_patch16_siglip_gap_256 vit_giantopt_patch16_siglip_gap_384
        vit_so400m_patch16_siglip_gap_256 vit_so400m_patch16_siglip_gap_384
        vit_so400m_patch16_siglip_gap_512
        """,
    ),
}
