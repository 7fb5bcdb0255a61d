"""open_clip's own model out of a folder."""

import shlex
from pathlib import Path
from typing import Any

from vit_engine.machine.installation import pip
from vit_export.files.json_file import read_json
from vit_export.packages.optional import beside_torch, importing

CONFIG = "open_clip_config.json"


def open_clip() -> Any:
    """Return the library; MachineError where it cannot be imported."""
    with importing(
        needed="the export is compared with open_clip's own model",
        install=f"{pip()} install {shlex.join(beside_torch())} open_clip_torch, or export with "
        "--no-verify",
    ):
        import open_clip
    return open_clip


def loaded(folder: Path, image_size: int | None) -> Any:
    """Return the library's model, its weights all read; maybe told a size of images."""
    own = read_json(folder / CONFIG)["model_cfg"]["vision_cfg"].get("image_size", 224)
    model = open_clip().create_model(
        f"local-dir:{folder}",
        force_image_size=None if own in (image_size, [image_size] * 2) else image_size,
    )
    return model.eval()
