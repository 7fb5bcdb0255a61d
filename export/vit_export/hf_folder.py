"""The configs beside `onnx/model.onnx`, where Optimum and transformers.js look for them."""

import json
import shutil
from pathlib import Path
from typing import Any

from vit_engine.machine.atomic import write_whole
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.checkpoints.configs.preprocessor import PREPROCESSOR, PROCESSOR, fitted_sizes
from vit_export.checkpoints.json_file import read_json

CONFIG = "config.json"
CONFIGS = (CONFIG, PREPROCESSOR, PROCESSOR)


def write_configs(checkpoint: Checkpoint, folder: Path, *, image_size: int | None) -> None:
    """Put the checkpoint's configs into a folder, fitted to an image size that was asked for."""
    for name in CONFIGS:
        source = checkpoint.folder / name
        if not source.exists():  # one of an earlier export would be taken for this model's
            (folder / name).unlink(missing_ok=True)
        elif image_size is None:
            shutil.copyfile(source, folder / name)
        else:
            fit = _model_config if name == CONFIG else _processor_config
            text = json.dumps(fit(read_json(source), checkpoint), indent=2)
            write_whole(folder / name, text.encode())


def _model_config(config: dict[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    size = checkpoint.form.image_size
    if checkpoint.family.package == "timm":
        fitted = {"input_size": [3, size, size]}
        return config | {"pretrained_cfg": config["pretrained_cfg"] | fitted}
    if "vision_config" in config:
        return config | {"vision_config": config["vision_config"] | {"image_size": size}}
    return config | {"image_size": size}


def _processor_config(config: dict[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    if isinstance(nested := config.get("image_processor"), dict):
        return config | {"image_processor": _processor_config(nested, checkpoint)}
    default = checkpoint.family.image_processor
    return config | fitted_sizes(config, default, checkpoint.preprocessor_scale)
