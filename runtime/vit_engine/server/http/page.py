"""The pages that browsers are given, and the policies that let their own script and style run."""

import base64
import hashlib
import re
from collections.abc import Callable
from functools import partial
from importlib import resources

from starlette.responses import HTMLResponse


def page_responses(name: str) -> Callable[[], HTMLResponse]:
    """Return what answers with a page of this folder and its Content-Security-Policy."""
    page = resources.files("vit_engine.server.http").joinpath(name).read_text("utf-8")

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(text.encode()).digest() for text in found)
        return " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)

    policy = (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return partial(HTMLResponse, page, headers={"content-security-policy": policy})
