"""The vision half of SigLIP (arXiv:2303.15343), and of SigLIP 2 of a fixed size."""

from dataclasses import replace

from vit_engine.artefact.contract import Pooling
from vit_engine.errors import CheckpointError
from vit_export.families.family import Config, Family, Names, Part, StoredShapes, renamed
from vit_export.families.model_config import ModelConfig
from vit_export.families.transformers.config import vision_config, vit_numbers
from vit_export.families.transformers.headless import headless, is_classifier
from vit_export.families.transformers.names import VISION_TOWER
from vit_export.families.values import flag


def form_from_config(config: Config, _: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values of transformers' SiglipVisionConfig."""
    vision = vision_config(config)
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

POOL = "vision_model.head"
WITH_POOL: Names = {
    **VISION_TOWER,
    "map.probe": f"{POOL}.probe",
    **{
        f"map.{part}.{kind}": Part(f"{POOL}.attention.in_proj_{kind}", nth, 3)
        for nth, part in enumerate("qkv")
        for kind in ("weight", "bias")
    },
    "map.out": f"{POOL}.attention.out_proj",
    "map.norm": f"{POOL}.layernorm",
    "map.fc1": f"{POOL}.mlp.fc1",
    "map.fc2": f"{POOL}.mlp.fc2",
}


def _poolings(config: Config, shapes: StoredShapes) -> tuple[Pooling, ...]:
    """Return what the class reads first: the classifier takes the mean, whatever head there is."""
    said = flag(vision_config(config), "vision_use_head", True)
    if not said and any("head.probe" in name for name in shapes()):
        raise CheckpointError("vision_use_head is false, but the weights hold head.probe")
    if not said:
        return ("mean",)
    return ("mean", "map") if is_classifier(config) else ("map", "mean")


SIGLIP_VECTORS = replace(
    SIGLIP,
    architecture="SiglipModel",
    classes=("SiglipVisionModel", SIGLIP.architecture),
    model_config=headless(form_from_config),
    conventions=(WITH_POOL, renamed(WITH_POOL, r"^vision_model\.", "")),
    unread=(
        "vision_model.embeddings.position_ids",
        "embeddings.position_ids",
        "text_model.",
        "logit_scale",
        "logit_bias",
        "classifier.",
    ),
    poolings=_poolings,
)
