"""The folder in which this user's caches lie."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path | None:
    """Return the folder of one cache, below XDG_CACHE_HOME or ~/.cache; it may not exist.

    None for a user without a home.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:  # a uid that no password file knows, and no HOME
        return None
    return root / "vit-engine" / name
