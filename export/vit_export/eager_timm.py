"""The reference for timm's checkpoints: timm's own model and eval transform, in fp32."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vit_engine.errors import CheckpointError
from vit_engine.machine.installation import pip_install
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.checkpoints.json_file import read_json
from vit_export.checkpoints.tensors.weight_files import weight_files


@dataclass(frozen=True)
class Output:
    """What a model of transformers would return."""

    logits: Any


def _timm() -> Any:
    """Return the library; CheckpointError where it is not installed."""
    try:
        import timm
    except ImportError as e:
        raise CheckpointError(
            "it is timm's, whose own model it is compared with, and that cannot be imported "
            f"({e}): {pip_install('timm')}, or export with --no-verify"
        ) from e
    return timm


def timm_model(checkpoint: Checkpoint, folder: Path) -> Any:
    """Return timm's model, to be called as transformers' model is; CheckpointError without timm."""
    timm, config = _timm(), read_json(folder / "config.json")
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
        with warnings.catch_warnings(action="ignore"):  # torch's, of how timm resamples tables
            model.set_input_size((size, size))
    return lambda pixel_values: Output(model(pixel_values))


def timm_processor(checkpoint: Checkpoint, folder: Path) -> Any:
    """Return timm's eval transform, to be called as an image processor of transformers is."""
    timm, config = _timm(), read_json(folder / "config.json")
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
