"""DINOv2 (arXiv:2304.07193), also the giant one, and with registers (arXiv:2309.16588)."""

from dataclasses import replace

from vit_engine.artefact.contract import Pooling
from vit_export.families.family import Config, Family, Names, Part, StoredShapes, renamed
from vit_export.families.model_config import ModelConfig
from vit_export.families.transformers.config import vit_numbers
from vit_export.families.transformers.headless import TOKENS, is_classifier, without_head
from vit_export.families.transformers.names import CLASSIC
from vit_export.families.values import count, flag, number

ON_DISK: Names = {
    **renamed(CLASSIC, r"^vit\.", "dinov2."),
    "blocks.*.norm1": "dinov2.encoder.layer.*.norm1",
    "blocks.*.norm2": "dinov2.encoder.layer.*.norm2",
    "blocks.*.fc1": "dinov2.encoder.layer.*.mlp.fc1",
    "blocks.*.fc2": "dinov2.encoder.layer.*.mlp.fc2",
    "blocks.*.scale1": "dinov2.encoder.layer.*.layer_scale1.lambda1",
    "blocks.*.scale2": "dinov2.encoder.layer.*.layer_scale2.lambda1",
}
GATED: Names = {
    "blocks.*.gate": Part("dinov2.encoder.layer.*.mlp.weights_in", 0, 2),
    "blocks.*.fc1": Part("dinov2.encoder.layer.*.mlp.weights_in", 1, 2),
    "blocks.*.fc2": "dinov2.encoder.layer.*.mlp.weights_out",
}
MODULES: Names = {
    "blocks.*.q": "dinov2.encoder.layer.*.attention.q_proj",
    "blocks.*.k": "dinov2.encoder.layer.*.attention.k_proj",
    "blocks.*.v": "dinov2.encoder.layer.*.attention.v_proj",
    "blocks.*.out": "dinov2.encoder.layer.*.attention.o_proj",
    "blocks.*.gate": "dinov2.encoder.layer.*.mlp.gate_proj",
}
"""What transformers 5 calls otherwise in memory."""
GATED_MODULES: Names = {
    "blocks.*.fc1": "dinov2.encoder.layer.*.mlp.up_proj",
    "blocks.*.fc2": "dinov2.encoder.layer.*.mlp.down_proj",
}
CONVENTIONS: tuple[Names, ...] = (
    ON_DISK,
    {**ON_DISK, **MODULES},
    {**ON_DISK, **GATED},
    {**ON_DISK, **MODULES, **GATED_MODULES},
)


def form_from_config(config: Config, _: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values of transformers' Dinov2Config."""
    numbers = vit_numbers(config, epsilon_default=1e-6, patch=14)
    inner = int(numbers["hidden_size"] * number(config, "mlp_ratio", 4))
    if gated := flag(config, "use_swiglu_ffn", False):
        inner = (int(inner * 2 / 3) + 7) // 8 * 8
        numbers["hidden_act"] = "silu"
    return ModelConfig(
        **numbers | {"intermediate_size": inner},
        layer_scale=True,
        gated=gated,
        pooled=("cls", "patches"),
    )


def form_with_registers(config: Config, shapes: StoredShapes) -> ModelConfig:
    """Read config.json; absent keys have the values of Dinov2WithRegistersConfig."""
    model_config = form_from_config({"patch_size": 16, **config}, shapes)
    registers = count(config, "num_register_tokens", 4)
    return replace(
        model_config, prefix=(("cls", 1), ("registers", registers)), positions="cls", antialias=True
    )


DINOV2 = Family(
    model_type="dinov2",
    architecture="Dinov2ForImageClassification",
    model_config=form_from_config,
    conventions=CONVENTIONS,
    unread=("dinov2.embeddings.mask_token",),
    image_processor="BitImageProcessor",
    takes_any_size=True,
)

DINOV2_WITH_REGISTERS = Family(
    model_type="dinov2_with_registers",
    architecture="Dinov2WithRegistersForImageClassification",
    model_config=form_with_registers,
    conventions=tuple(
        renamed(
            {**names, "registers": "dinov2.embeddings.register_tokens"},
            r"^dinov2\.",
            "dinov2_with_registers.",
        )
        for names in CONVENTIONS
    ),
    unread=("dinov2_with_registers.embeddings.mask_token",),
    image_processor="BitImageProcessor",
    takes_any_size=True,
)


def _poolings(config: Config, _: StoredShapes) -> tuple[Pooling, ...]:
    return ("cls+mean", "cls", "mean") if is_classifier(config) else TOKENS


DINOV2_VECTORS = without_head(DINOV2, "dinov2.", poolings=_poolings)

DINOV2_WITH_REGISTERS_VECTORS = without_head(
    DINOV2_WITH_REGISTERS, "dinov2_with_registers.", poolings=_poolings
)
