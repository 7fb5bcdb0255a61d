"""The families of transformers' ViTs, by the names in config.json."""

from vit_engine.errors import CheckpointError
from vit_export.families.family import Config, Family
from vit_export.families.transformers.beit import (
    BEIT,
    BEIT_VECTORS,
    DATA2VEC_VISION,
    DATA2VEC_VISION_VECTORS,
)
from vit_export.families.transformers.clip import (
    CLIP,
    CLIP_CLASSIFIER_VECTORS,
    CLIP_VECTORS,
    METACLIP_2,
    METACLIP_2_CLASSIFIER_VECTORS,
    METACLIP_2_VECTORS,
)
from vit_export.families.transformers.config import VISION_ALONE
from vit_export.families.transformers.deit import DEIT, DEIT_VECTORS, DEIT_WITH_TEACHER
from vit_export.families.transformers.dinov2 import (
    DINOV2,
    DINOV2_VECTORS,
    DINOV2_WITH_REGISTERS,
    DINOV2_WITH_REGISTERS_VECTORS,
)
from vit_export.families.transformers.dinov3 import DINOV3_VECTORS
from vit_export.families.transformers.siglip import SIGLIP, SIGLIP_VECTORS
from vit_export.families.transformers.vit import (
    IJEPA,
    IJEPA_VECTORS,
    VIT,
    VIT_MSN,
    VIT_MSN_VECTORS,
    VIT_VECTORS,
)

FAMILIES = (
    VIT,
    DEIT,
    DEIT_WITH_TEACHER,
    DINOV2,
    DINOV2_WITH_REGISTERS,
    BEIT,
    DATA2VEC_VISION,
    CLIP,
    METACLIP_2,
    SIGLIP,
    VIT_MSN,
    IJEPA,
)
"""Where a config.json names no class, the first of its model_type is meant."""

VECTOR_FAMILIES = (
    VIT_VECTORS,
    DEIT_VECTORS,
    DINOV2_VECTORS,
    DINOV2_WITH_REGISTERS_VECTORS,
    DINOV3_VECTORS,
    BEIT_VECTORS,
    DATA2VEC_VISION_VECTORS,
    CLIP_VECTORS,
    METACLIP_2_VECTORS,
    CLIP_CLASSIFIER_VECTORS,
    METACLIP_2_CLASSIFIER_VECTORS,
    SIGLIP_VECTORS,
    VIT_MSN_VECTORS,
    IJEPA_VECTORS,
)
"""Those that give vectors, for `--embed`."""

HEADLESS = ("Model", "Backbone", "ForPreTraining", "ForMaskedImageModeling", "WithProjection")
"""How the names of classes end that have no classifier's head."""

TWO_TOWERS = ("CLIPModel", "MetaClip2Model", "SiglipModel")
"""The classes that have a text tower beside that of images."""


def family_from_config(config: Config, *, vectors: bool = False) -> Family:
    """Return the family that a config.json is of; CheckpointError if it is of none.

    With `vectors` those that give an image's vector, and not logits.
    """
    families = VECTOR_FAMILIES if vectors else FAMILIES
    if family := _known(config, families):
        return family
    supported = "models" if vectors else "image classifiers"
    types = ", ".join(dict.fromkeys(family.model_type for family in families))
    raise CheckpointError(
        f"config.json describes model_type {config.get('model_type')!r}, architectures "
        f"{config.get('architectures')}{_reason(config, vectors=vectors)}; supported are "
        f"{supported} of model_type {types}, and timm's ViTs"
    )


def _known(config: Config, families: tuple[Family, ...]) -> Family | None:
    """Return the family that a config.json names; where it names no class, the first of its type.

    An image tower that was stored alone has a type of its own.
    """
    for family in families:
        found = config.get("architectures") or [family.architecture]
        classes = (family.architecture, *family.classes)
        types = (family.model_type, family.model_type + VISION_ALONE)
        if config.get("model_type") in types and found in [[name] for name in classes]:
            return family
    return None


def _reason(config: Config, *, vectors: bool) -> str:
    """Say of what is not supported what it is, where that is known."""
    names = config.get("architectures")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ""
    if config.get("model_type") == "siglip2":
        return ": SigLIP 2 for images of any aspect (NaFlex)"
    if vectors:
        alike = [f for f in VECTOR_FAMILIES if f.model_type == config.get("model_type")]
        classes = [name for family in alike for name in (family.architecture, *family.classes)]
        return f" (its classes are {', '.join(classes)})" if classes else ""
    if _known(config, VECTOR_FAMILIES):
        labels = ", --labels FILE a zero-shot classifier" if names[0] in TWO_TOWERS else ""
        return f": a model without a classifier's head; --embed exports its vectors{labels}"
    if any(name.endswith(HEADLESS) for name in names):
        return ": a model without a classifier's head"
    if same := [f.architecture for f in FAMILIES if f.model_type == config.get("model_type")]:
        return f" (its classifiers are {' and '.join(same)})"
    return ""
