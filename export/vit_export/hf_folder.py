"""The configs beside `onnx/model.onnx`, where Optimum and transformers.js look for them."""

import json
import shutil
from pathlib import Path
from typing import Any

from vit_engine.machine.atomic import write_whole
from vit_engine.outputs.scores import Scores
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.families.known import FAMILIES
from vit_export.files.json_file import read_json
from vit_export.packages.labels import PROBLEMS
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
    if checkpoint.zero_shot:
        own = read_json(source / CONFIG) if (source / CONFIG).exists() else {}  # not open_clip's
        resized[CONFIG] = _as_classifier(checkpoint, resized.get(CONFIG) or own)
    for name in CONFIGS:
        if name in resized:
            write_whole(folder / name, json.dumps(resized[name], indent=2).encode())
        elif (source / name).exists():
            shutil.copyfile(source / name, folder / name)
        else:  # one of an earlier export would be taken for this model's
            (folder / name).unlink(missing_ok=True)


def _as_classifier(checkpoint: Checkpoint, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the library's classifier of the same kind, with zero-shot labels."""
    assert isinstance(checkpoint.output, Scores)
    kind, labels = checkpoint.family.model_type, checkpoint.output.labels
    several = checkpoint.output.function == "sigmoid"
    return {
        **config,
        "architectures": [f.architecture for f in FAMILIES if f.model_type == kind],
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": PROBLEMS[1 if several else 0],
    }
