"""A JSON object out of a checkpoint's folder."""

import json
from pathlib import Path
from typing import Any

from vit_engine.errors import CheckpointError, one_line
from vit_export.files.other_kinds import refuse_broken_link, refuse_pointer


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; CheckpointError if the file is absent or something else."""
    refuse_broken_link(path)
    try:
        refuse_pointer(path)
        document = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(document, ensure_ascii=False).encode()  # "\\ud800" is read, and is no character
    except FileNotFoundError as e:
        raise CheckpointError(f"{path.name} is missing; it is expected beside the weights") from e
    except UnicodeError as e:
        raise CheckpointError(
            f"{path.name} is not readable JSON: it is not UTF-8 ({one_line(e)}); save it as UTF-8"
        ) from e
    except (OSError, ValueError, RecursionError) as e:
        raise CheckpointError(f"{path.name} is not readable JSON ({one_line(e)})") from e
    if not isinstance(document, dict):
        raise CheckpointError(f"{path.name} is a JSON {type(document).__name__}, not an object")
    return document
