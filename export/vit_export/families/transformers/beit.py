"""BEiT (arXiv:2106.08254) and Data2Vec for vision (arXiv:2202.03555): biases by distance."""

from dataclasses import replace

from vit_engine.artefact.contract import Pooling
from vit_engine.errors import CheckpointError
from vit_export.families.family import Config, Family, Names, StoredShapes, renamed
from vit_export.families.model_config import ModelConfig
from vit_export.families.transformers.config import vit_numbers
from vit_export.families.transformers.headless import TOKENS, is_classifier, without_head
from vit_export.families.transformers.names import CLASSIC, IN_MEMORY
from vit_export.families.values import flag, number

TABLE = "relative_position_bias_table"
POOLED: Names = {"norm": "beit.pooler.layernorm"}
ON_DISK: Names = {
    **renamed(CLASSIC, r"^vit\.", "beit."),
    "blocks.*.scale1": "beit.encoder.layer.*.lambda_1",
    "blocks.*.scale2": "beit.encoder.layer.*.lambda_2",
    "blocks.*.relative": f"beit.encoder.layer.*.attention.attention.relative_position_bias.{TABLE}",
}
MODULES: Names = {
    **renamed(IN_MEMORY, r"^vit\.", "beit."),
    "blocks.*.scale1": "beit.layers.*.lambda_1",
    "blocks.*.scale2": "beit.layers.*.lambda_2",
    "blocks.*.relative": f"beit.layers.*.relative_position_bias.{TABLE}",
}
SHARED: Names = {"blocks.*.relative": f"beit.encoder.relative_position_bias.{TABLE}"}
SHARED_MODULES: Names = {"blocks.*.relative": f"beit.shared_position_bias.{TABLE}"}


def _variants(names: Names, shared: Names) -> tuple[Names, ...]:
    """Return the names with the norm at either place, and one table for all blocks or each its."""
    return tuple({**names, **norm, **table} for norm in (POOLED, {}) for table in ({}, shared))


def form_from_config(config: Config, shapes: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values of BeitConfig and Data2VecVisionConfig."""
    own = flag(config, "use_relative_position_bias", False)
    shared = flag(config, "use_shared_relative_position_bias", False)
    if own and shared:
        raise CheckpointError(
            "use_relative_position_bias and use_shared_relative_position_bias are both true; "
            "supported is one of them"
        )
    mean = flag(config, "use_mean_pooling", True)
    if not mean and _norm_of_mean(shapes):
        raise CheckpointError("use_mean_pooling is false, but the weights hold pooler.layernorm")
    numbers = vit_numbers(config, epsilon_default=1e-12)
    return ModelConfig(
        **numbers | {"no_bias": ("k",)},
        positions="all" if flag(config, "use_absolute_position_embeddings", False) else "none",
        layer_scale=number(config, "layer_scale_init_value", 0.1) > 0,
        relative=own or shared,
        norm="pooled" if mean else "tokens",
        pooled=("patches",) if mean else ("cls",),
    )


BEIT = Family(
    model_type="beit",
    architecture="BeitForImageClassification",
    model_config=form_from_config,
    conventions=_variants(ON_DISK, SHARED) + _variants(MODULES, SHARED_MODULES),
    unread=(
        "beit.embeddings.mask_token",
        "beit.encoder.layer.*.attention.attention.relative_position_bias.relative_position_index",
        "beit.encoder.relative_position_bias.relative_position_index",
    ),
    image_processor="BeitImageProcessor",
    takes_any_size=True,
)

DATA2VEC_VISION = Family(
    model_type="data2vec-vision",
    architecture="Data2VecVisionForImageClassification",
    model_config=form_from_config,
    conventions=tuple(
        renamed(names, r"^beit\.", "data2vec_vision.") for names in _variants(ON_DISK, SHARED)
    ),
    unread=tuple(name.replace("beit.", "data2vec_vision.") for name in BEIT.unread),
    image_processor="BeitImageProcessor",
    takes_any_size=True,
)


def _poolings(config: Config, _: StoredShapes) -> tuple[Pooling, ...]:
    """Return what the last norm is of: where that is the mean, CLS has none."""
    return ("mean",) if flag(config, "use_mean_pooling", True) else TOKENS


def _norm_of_mean(shapes: StoredShapes) -> bool:
    return any("pooler.layernorm." in name for name in shapes())


def form_of_data2vec(config: Config, shapes: StoredShapes) -> ModelConfig:
    """Read config.json; where the mean has a norm, it belongs to the classifier."""
    model_config = form_from_config(config, shapes)
    if model_config.norm == "pooled" and not _norm_of_mean(shapes) and not is_classifier(config):
        return replace(model_config, norm="none")
    return model_config


BEIT_VECTORS = without_head(BEIT, "beit.", poolings=_poolings)

DATA2VEC_VISION_VECTORS = without_head(
    replace(DATA2VEC_VISION, model_config=form_of_data2vec), "data2vec_vision.", poolings=_poolings
)
