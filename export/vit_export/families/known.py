"""The families of transformers' classifiers, by the names in config.json."""

from vit_engine.errors import CheckpointError
from vit_export.families.family import Config, Family
from vit_export.families.transformers.beit import BEIT, DATA2VEC_VISION
from vit_export.families.transformers.clip import CLIP, CLIP_VECTORS, METACLIP_2, METACLIP_2_VECTORS
from vit_export.families.transformers.deit import DEIT, DEIT_WITH_TEACHER
from vit_export.families.transformers.dinov2 import DINOV2, DINOV2_WITH_REGISTERS
from vit_export.families.transformers.ijepa import IJEPA
from vit_export.families.transformers.siglip import SIGLIP
from vit_export.families.transformers.vit import VIT, VIT_VECTORS
from vit_export.families.transformers.vit_msn import VIT_MSN

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
    CLIP_VECTORS,
    METACLIP_2_VECTORS,
)
"""Those that give vectors, for `--embed`."""

HEADLESS = ("Model", "Backbone", "ForPreTraining", "ForMaskedImageModeling", "WithProjection")
"""How the names of classes end that have no classifier's head."""


def family_from_config(config: Config, *, vectors: bool = False) -> Family:
    """Return the family that a config.json is of; CheckpointError if it is of none.

    With `vectors` those that give an image's vector, and not logits.
    """
    for family in VECTOR_FAMILIES if vectors else FAMILIES:
        found = config.get("architectures") or [family.architecture]
        classes = [family.architecture, *family.classes]
        if config.get("model_type") == family.model_type and found in [[name] for name in classes]:
            return family
    types = ", ".join(dict.fromkeys(family.model_type for family in FAMILIES))
    raise CheckpointError(
        f"config.json describes model_type {config.get('model_type')!r}, architectures "
        f"{config.get('architectures')}{_reason(config)}; supported are image classifiers of "
        f"model_type {types}, and timm's ViTs"
    )


def _reason(config: Config) -> str:
    """Say of what is not supported what it is, where that is known."""
    names = config.get("architectures")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ""
    if config.get("model_type") == "siglip2":
        return ": SigLIP 2 for images of any aspect (NaFlex)"
    if any(name.endswith(HEADLESS) for name in names):
        return ": a model without a classifier's head"
    if same := [f.architecture for f in FAMILIES if f.model_type == config.get("model_type")]:
        return f" (its classifiers are {' and '.join(same)})"
    return ""
