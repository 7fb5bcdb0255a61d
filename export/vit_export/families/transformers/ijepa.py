"""I-JEPA (arXiv:2301.08243): a ViT without a CLS token."""

from vit_export.families.family import Config, Family, StoredShapes, renamed
from vit_export.families.form import Form
from vit_export.families.transformers.config import vit_numbers
from vit_export.families.transformers.names import CLASSIC, IN_MEMORY


def form_from_config(config: Config, _: StoredShapes) -> Form:
    """Read config.json; absent keys have the values of transformers' IJepaConfig."""
    numbers = vit_numbers(config, epsilon_default=1e-12)
    return Form(**numbers, prefix=(), positions="patches", pooled=("patches",))


IJEPA = Family(
    model_type="ijepa",
    architecture="IJepaForImageClassification",
    form=form_from_config,
    conventions=tuple(renamed(names, r"^vit\.", "ijepa.") for names in (CLASSIC, IN_MEMORY)),
    unread=("ijepa.pooler.",),
    image_processor="ViTImageProcessor",
)
