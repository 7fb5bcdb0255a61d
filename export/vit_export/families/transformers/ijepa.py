"""I-JEPA (arXiv:2301.08243): a ViT without a CLS token."""

from vit_export.families.family import Config, Family, StoredShapes, renamed
from vit_export.families.model_config import ModelConfig
from vit_export.families.transformers.config import vit_numbers
from vit_export.families.transformers.headless import of_mean, without_head
from vit_export.families.transformers.names import CLASSIC, IN_MEMORY


def form_from_config(config: Config, _: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values of transformers' IJepaConfig."""
    numbers = vit_numbers(config, epsilon_default=1e-12)
    return ModelConfig(**numbers, prefix=(), positions="patches", pooled=("patches",))


IJEPA = Family(
    model_type="ijepa",
    architecture="IJepaForImageClassification",
    model_config=form_from_config,
    conventions=tuple(renamed(names, r"^vit\.", "ijepa.") for names in (CLASSIC, IN_MEMORY)),
    unread=("ijepa.pooler.",),
    image_processor="ViTImageProcessor",
)

IJEPA_VECTORS = without_head(IJEPA, "ijepa.", poolings=of_mean)
