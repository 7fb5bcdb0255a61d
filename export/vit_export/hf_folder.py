"""The configs beside `onnx/model.onnx`, where Optimum and transformers.js look for them."""

import json
import shutil
from pathlib import Path

from vit_engine.machine.atomic import write_whole
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.packages.package import CONFIG
from vit_export.packages.preprocessor import PREPROCESSOR, PROCESSOR

CONFIGS = (CONFIG, PREPROCESSOR, PROCESSOR)


def write_configs(checkpoint: Checkpoint, folder: Path, *, image_size: int | None) -> None:
    """Put the checkpoint's configs into a folder, fitted to an image size that was asked for."""
    source, resized = checkpoint.folder, {}
    if image_size:
        resized = checkpoint.package.resized_configs(
            source, checkpoint.family, image_size, checkpoint.preprocessor_scale
        )
    for name in CONFIGS:
        if name in resized:
            write_whole(folder / name, json.dumps(resized[name], indent=2).encode())
        elif (source / name).exists():
            shutil.copyfile(source / name, folder / name)
        else:  # one of an earlier export would be taken for this model's
            (folder / name).unlink(missing_ok=True)
