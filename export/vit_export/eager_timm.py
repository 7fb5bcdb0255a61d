"""The reference for timm's checkpoints: timm's own model and eval transform, in fp32."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vit_engine.errors import CheckpointError
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.checkpoints.json_file import read_json
from vit_export.checkpoints.weight_files import weight_files


@dataclass(frozen=True)
class Output:
    """What a model of transformers would return."""

    logits: Any


def model_and_processor(checkpoint: Checkpoint, folder: Path) -> tuple[Any, Any]:
    """Return timm's model and transform, to be called as transformers' model and processor are.

    CheckpointError where timm is not installed.
    """
    try:
        import timm
    except ImportError as e:
        raise CheckpointError(
            "it is timm's, whose own model it is compared with, and that cannot be imported "
            f"({e}): python -m pip install 'vit-engine[timm]', or export with --no-verify"
        ) from e
    config = read_json(folder / "config.json")
    return _model(timm, checkpoint, folder, config), _processor(timm, checkpoint, config)


def _model(timm: Any, checkpoint: Checkpoint, folder: Path, config: Mapping[str, Any]) -> Any:
    known = timm.models.PretrainedCfg.__dataclass_fields__
    model = timm.create_model(
        checkpoint.family.architecture,
        pretrained_cfg={k: v for k, v in config["pretrained_cfg"].items() if k in known},
        **{**(config.get("model_args") or {}), "num_classes": len(checkpoint.labels)},
    )
    state: dict[str, Any] = {}
    for path in weight_files(folder):
        state |= timm.models.load_state_dict(str(path), weights_only=True)
    reads = checkpoint.family.reads
    model.load_state_dict({k.removeprefix("timm_model."): v for k, v in state.items() if reads(k)})
    model.float().eval()
    size = checkpoint.form.image_size
    if not getattr(model, "dynamic_img_size", False) and model.patch_embed.img_size != (size, size):
        model.set_input_size((size, size))
    return lambda pixel_values: Output(model(pixel_values))


def _processor(timm: Any, checkpoint: Checkpoint, config: Mapping[str, Any]) -> Any:
    import torch

    size = checkpoint.form.image_size
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config(
            {"input_size": (3, size, size)}, pretrained_cfg=config["pretrained_cfg"]
        )
    )

    def processor(images: Image.Image | list[Image.Image], return_tensors: str) -> dict[str, Any]:
        listed = images if isinstance(images, list) else [images]
        pixels = torch.stack([transform(image.convert("RGB")) for image in listed])
        return {"pixel_values": pixels if return_tensors == "pt" else pixels.numpy()}

    return processor
