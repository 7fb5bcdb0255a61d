"""ViT (arXiv:2010.11929), fine-tuned MAE in its class, and ViTs that others pre-trained: ViT-MSN
(arXiv:2204.07141), and I-JEPA (arXiv:2301.08243), which has no CLS token."""

from vit_export.families.family import Config, Family, StoredShapes, renamed
from vit_export.families.model_config import ModelConfig
from vit_export.families.transformers.config import vit_numbers
from vit_export.families.transformers.headless import of_mean, of_tokens, without_head
from vit_export.families.transformers.names import CLASSIC, IN_MEMORY


def form_from_config(config: Config, _: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values that transformers' ViTConfig gives them."""
    return ModelConfig(**vit_numbers(config, epsilon_default=1e-12))


def form_of_msn(config: Config, _: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values of transformers' ViTMSNConfig."""
    return ModelConfig(**vit_numbers(config, epsilon_default=1e-6))


def form_of_ijepa(config: Config, _: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values of transformers' IJepaConfig."""
    numbers = vit_numbers(config, epsilon_default=1e-12)
    return ModelConfig(**numbers, prefix=(), positions="patches", pooled=("patches",))


VIT = Family(
    model_type="vit",
    architecture="ViTForImageClassification",
    model_config=form_from_config,
    conventions=(CLASSIC, IN_MEMORY),
    unread=("vit.pooler.",),  # it belongs to ViTModel
    image_processor="ViTImageProcessor",
)

VIT_MSN = Family(
    model_type="vit_msn",
    architecture="ViTMSNForImageClassification",
    model_config=form_of_msn,
    # transformers 5 writes the blocks of this class without a prefix.
    conventions=(CLASSIC, renamed(CLASSIC, r"^vit\.encoder\.", "encoder."), IN_MEMORY),
    unread=(),
    image_processor="ViTImageProcessor",
)

IJEPA = Family(
    model_type="ijepa",
    architecture="IJepaForImageClassification",
    model_config=form_of_ijepa,
    conventions=tuple(renamed(names, r"^vit\.", "ijepa.") for names in (CLASSIC, IN_MEMORY)),
    unread=("ijepa.pooler.",),
    image_processor="ViTImageProcessor",
)

VIT_VECTORS = without_head(VIT, "vit.", poolings=of_tokens, classes=("ViTForMaskedImageModeling",))
VIT_MSN_VECTORS = without_head(VIT_MSN, "vit.", poolings=of_tokens)
IJEPA_VECTORS = without_head(IJEPA, "ijepa.", poolings=of_mean)
