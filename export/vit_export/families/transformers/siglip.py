"""The vision half of SigLIP (arXiv:2303.15343), and of SigLIP 2 of a fixed size, as classifiers."""

from vit_engine.errors import CheckpointError
from vit_export.families.family import Config, Family, StoredShapes
from vit_export.families.model_config import ModelConfig
from vit_export.families.transformers.config import vit_numbers
from vit_export.families.transformers.names import VISION_TOWER
from vit_export.families.values import section


def form_from_config(config: Config, _: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values of transformers' SiglipVisionConfig."""
    vision = section(config, "vision_config")
    if "num_patches" in vision:
        raise CheckpointError(
            "vision_config has num_patches, so images keep their aspect (NaFlex); supported are "
            "SigLIP models of a fixed image_size"
        )
    numbers = vit_numbers({"hidden_act": "gelu_pytorch_tanh", **vision}, epsilon_default=1e-6)
    return ModelConfig(**numbers, prefix=(), positions="patches", pooled=("patches",))


SIGLIP = Family(
    model_type="siglip",
    architecture="SiglipForImageClassification",
    model_config=form_from_config,
    conventions=(VISION_TOWER,),
    unread=("vision_model.head.", "vision_model.embeddings.position_ids"),
    image_processor="SiglipImageProcessor",
)
