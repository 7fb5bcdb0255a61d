"""Model hubs: an id becomes a folder with the checkpoint's files. Alone imports modelscope."""

import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

from vit_runtime.errors import CheckpointError

from vit_export.weights import first_line

ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
PATTERNS = ["config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json"]


def download(model: str, *, revision: str | None, offline: bool) -> tuple[Path, str | None]:
    """Fetch `owner/name` from ModelScope, or `hf:owner/name`; return (folder, revision)."""
    name = model.removeprefix("hf:")
    if not ID.fullmatch(name):
        raise CheckpointError(
            f"{model!r} is no folder and no model; expected 'demo', a folder, a ModelScope id "
            "'owner/name', or 'hf:owner/name'"
        )
    with redirect_stdout(sys.stderr):
        from modelscope import snapshot_download

        try:
            folder = snapshot_download(
                name, revision=revision, local_files_only=offline, allow_patterns=PATTERNS
            )
        except Exception as e:
            raise CheckpointError(f"{model}: {first_line(e)}") from e
    return Path(folder), revision
