"""How this package was installed, so that what it says to type works there."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

WHEEL = "THE-WHEEL-YOU-INSTALLED.whl"
"""Stands in a line for what cannot be found out."""


def pip_install(extra: str, *options: str) -> str:
    """Return the line that adds an extra of vit-engine, which no index has, to this environment.

    It names the clone, or the file, that vit-engine was installed from, where that is still there
    (PEP 610's direct_url.json), else `WHEEL`.
    """
    origin = _origin()
    source = WHEEL
    if origin.get("url", "").startswith("file://"):
        path = Path(unquote(urlsplit(origin["url"]).path))
        source = str(path) if path.exists() else WHEEL
    elif "url" in origin:
        vcs = f"{origin['vcs_info']['vcs']}+" if "vcs_info" in origin else ""
        return _line(*options, f"vit-engine[{extra}] @ {vcs}{origin['url']}")
    editable = ("--editable",) if origin.get("dir_info", {}).get("editable") else ()
    return _line(*options, *editable, f"{source}[{extra}]")


def pip() -> str:
    """Return how pip is called for this environment, which may not be the one that is active."""
    active = shutil.which("python")
    is_here = active is not None and Path(active) == Path(sys.executable)
    return f"{'python' if is_here else shlex.quote(sys.executable)} -m pip"


def _line(*words: str) -> str:
    return f"{pip()} install {shlex.join(words)}"


def _origin() -> dict[str, Any]:
    """Return what pip recorded of where it took this package from; empty where it did not."""
    from importlib import metadata  # it brings the email and socket modules along

    try:
        text = metadata.distribution("vit-engine").read_text("direct_url.json")
    except metadata.PackageNotFoundError:  # run from a checkout
        text = None
    found: dict[str, Any] = json.loads(text) if text else {}
    return found
