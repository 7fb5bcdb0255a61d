"""ViT-MSN (arXiv:2204.07141): a ViT, pre-trained by masked siamese networks."""

from vit_export.families.family import Config, Family, StoredShapes, renamed
from vit_export.families.model_config import ModelConfig
from vit_export.families.transformers.config import vit_numbers
from vit_export.families.transformers.headless import of_tokens, without_head
from vit_export.families.transformers.names import CLASSIC, IN_MEMORY

UNPREFIXED = renamed(CLASSIC, r"^vit\.encoder\.", "encoder.")
"""As transformers 5 writes the blocks of this class."""


def form_from_config(config: Config, _: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values of transformers' ViTMSNConfig."""
    return ModelConfig(**vit_numbers(config, epsilon_default=1e-6))


VIT_MSN = Family(
    model_type="vit_msn",
    architecture="ViTMSNForImageClassification",
    model_config=form_from_config,
    conventions=(CLASSIC, UNPREFIXED, IN_MEMORY),
    unread=(),
    image_processor="ViTImageProcessor",
)

VIT_MSN_VECTORS = without_head(VIT_MSN, "vit.", poolings=of_tokens)
