"""The vision half of CLIP (arXiv:2103.00020) and MetaCLIP 2 (arXiv:2507.22062), as classifiers."""

from dataclasses import replace

from vit_engine.artefact.contract import Pooling
from vit_export.families.family import Config, Family, StoredShapes, renamed
from vit_export.families.model_config import ModelConfig
from vit_export.families.transformers.config import class_name, vision_config, vit_numbers
from vit_export.families.transformers.headless import headless, of_mean
from vit_export.families.transformers.names import VISION_TOWER
from vit_export.families.values import count


def form_from_config(config: Config, _: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values of transformers' CLIPVisionConfig.

    The classifier reads the mean of the patches as the last block leaves them.
    """
    vision = {"hidden_act": "quick_gelu", **vision_config(config)}
    numbers = vit_numbers(vision, epsilon_default=1e-5, patch=32)
    return ModelConfig(
        **numbers | {"no_bias": ("patch",)}, pre_norm=True, norm="none", pooled=("patches",)
    )


def vector_form(config: Config, shapes: StoredShapes) -> ModelConfig:
    """Read config.json of a model whose vectors are CLS after the last norm, mostly projected."""
    form = form_from_config(config, shapes)
    alone = class_name(config, CLIP_VECTORS.architecture).endswith("VisionModel")
    known = {**vision_config(config), **config}
    return replace(
        form,
        norm="tokens",
        pooled=("cls",),
        no_bias=(*form.no_bias, "head"),
        head="none" if alone else "linear",
        projection=0 if alone else count(known, "projection_dim", 512),
    )


def _cls_alone(_config: Config, _shapes: StoredShapes) -> tuple[Pooling, ...]:
    return ("cls",)


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

_TOWER = {**VISION_TOWER, "head": "visual_projection"}

CLIP_VECTORS = replace(
    CLIP,
    architecture="CLIPModel",
    classes=("CLIPVisionModelWithProjection", "CLIPVisionModel"),
    model_config=vector_form,
    conventions=(_TOWER, renamed(_TOWER, r"^vision_model\.", "")),
    unread=(
        "vision_model.embeddings.position_ids",
        "embeddings.position_ids",
        "text_model.",
        "text_projection.",
        "logit_scale",
    ),
    poolings=_cls_alone,
)

METACLIP_2_VECTORS = replace(
    CLIP_VECTORS,
    model_type="metaclip_2",
    architecture="MetaClip2Model",
    classes=("MetaClip2VisionModelWithProjection", "MetaClip2VisionModel"),
)

CLIP_CLASSIFIER_VECTORS, METACLIP_2_CLASSIFIER_VECTORS = (
    replace(
        family,
        model_config=headless(form_from_config),
        unread=(*family.unread, "classifier."),
        poolings=of_mean,
    )
    for family in (CLIP, METACLIP_2)
)
