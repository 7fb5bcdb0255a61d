"""The vision half of CLIP (arXiv:2103.00020) and MetaCLIP 2 (arXiv:2507.22062), as classifiers."""

from vit_export.families.family import Config, Family, StoredShapes
from vit_export.families.model_config import ModelConfig
from vit_export.families.transformers.config import vit_numbers
from vit_export.families.transformers.names import VISION_TOWER
from vit_export.families.values import section


def form_from_config(config: Config, _: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values of transformers' CLIPVisionConfig.

    The classifier reads the mean of the patches as the last block leaves them.
    """
    vision = section(config, "vision_config")
    numbers = vit_numbers({"hidden_act": "quick_gelu", **vision}, epsilon_default=1e-5, patch=32)
    return ModelConfig(
        **numbers | {"no_bias": ("patch",)}, pre_norm=True, norm="none", pooled=("patches",)
    )


CLIP = Family(
    model_type="clip",
    architecture="CLIPForImageClassification",
    model_config=form_from_config,
    conventions=(VISION_TOWER,),
    unread=("vision_model.post_layernorm.", "vision_model.embeddings.position_ids"),
    image_processor="CLIPImageProcessor",
)

METACLIP_2 = Family(
    model_type="metaclip_2",
    architecture="MetaClip2ForImageClassification",
    model_config=form_from_config,
    conventions=(VISION_TOWER,),
    unread=CLIP.unread,
    image_processor="CLIPImageProcessor",
)
