"""DeiT (arXiv:2012.12877): a ViT with a second token, which learnt from a teacher."""

from dataclasses import replace

from vit_export.families.family import Config, Family, Names, StoredShapes, renamed
from vit_export.families.model_config import ModelConfig
from vit_export.families.transformers.config import vit_numbers
from vit_export.families.transformers.headless import of_tokens, without_head
from vit_export.families.transformers.names import CLASSIC, IN_MEMORY

DISTILLED: Names = {"distillation": "deit.embeddings.distillation_token"}
TWO_HEADS: Names = {"head.cls": "cls_classifier", "head.distillation": "distillation_classifier"}
ON_DISK: Names = {**renamed(CLASSIC, r"^vit\.", "deit."), **DISTILLED}
MODULES: Names = {**renamed(IN_MEMORY, r"^vit\.", "deit."), **DISTILLED}


def form_from_config(config: Config, _: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values of transformers' DeiTConfig.

    The head reads CLS alone, as the class says that has one.
    """
    numbers = vit_numbers(config, epsilon_default=1e-12)
    return ModelConfig(**numbers, prefix=(("cls", 1), ("distillation", 1)))


def form_with_teacher(config: Config, shapes: StoredShapes) -> ModelConfig:
    """Read config.json; each token has a head, and the logits are averaged."""
    model_config = form_from_config(config, shapes)
    return replace(model_config, pooled=("cls", "distillation"), heads_averaged=True)


DEIT = Family(
    model_type="deit",
    architecture="DeiTForImageClassification",
    model_config=form_from_config,
    conventions=(ON_DISK, MODULES),
    unread=("deit.pooler.",),
    image_processor="DeiTImageProcessor",
)

DEIT_WITH_TEACHER = Family(
    model_type="deit",
    architecture="DeiTForImageClassificationWithTeacher",
    model_config=form_with_teacher,
    conventions=({**ON_DISK, **TWO_HEADS}, {**MODULES, **TWO_HEADS}),
    unread=("deit.pooler.",),
    image_processor="DeiTImageProcessor",
)

DEIT_VECTORS = without_head(
    DEIT,
    "deit.",
    poolings=of_tokens,
    classes=(DEIT_WITH_TEACHER.architecture, "DeiTForMaskedImageModeling"),
)
