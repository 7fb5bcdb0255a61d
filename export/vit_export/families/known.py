"""The families that an export knows."""

from vit_engine.errors import CheckpointError
from vit_export.families.config import Config
from vit_export.families.family import Family
from vit_export.families.vit import VIT

FAMILIES = (VIT,)


def family_from_config(config: Config) -> Family:
    """Return the family that a config.json is of; CheckpointError if it is of none."""
    for family in FAMILIES:
        found = config.get("architectures") or [family.architecture]
        if config.get("model_type") == family.model_type and found == [family.architecture]:
            return family
    supported = ", ".join(f"{f.model_type!r} with {f.architecture}" for f in FAMILIES)
    raise CheckpointError(
        f"config.json describes model_type {config.get('model_type')!r}, architectures "
        f"{config.get('architectures')}; supported is model_type {supported}"
    )
