"""ViT (arXiv:2010.11929) and what shares its class, such as fine-tuned MAE."""

from vit_export.families.family import Config, Family, StoredShapes
from vit_export.families.model_config import ModelConfig
from vit_export.families.transformers.config import vit_numbers
from vit_export.families.transformers.headless import of_tokens, without_head
from vit_export.families.transformers.names import CLASSIC, IN_MEMORY


def form_from_config(config: Config, _: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values that transformers' ViTConfig gives them."""
    return ModelConfig(**vit_numbers(config, epsilon_default=1e-12))


VIT = Family(
    model_type="vit",
    architecture="ViTForImageClassification",
    model_config=form_from_config,
    conventions=(CLASSIC, IN_MEMORY),
    unread=("vit.pooler.",),  # it belongs to ViTModel
    image_processor="ViTImageProcessor",
)

VIT_VECTORS = without_head(VIT, "vit.", poolings=of_tokens, classes=("ViTForMaskedImageModeling",))
