"""The page that browsers are given, and the policy that lets its script and style run alone."""

import base64
import hashlib
import re
from importlib import resources


def page_and_policy() -> tuple[str, str]:
    """Return the page, and the Content-Security-Policy that goes with it."""
    page = resources.files("vit_engine.server.http").joinpath("page.html").read_text("utf-8")

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(text.encode()).digest() for text in found)
        return " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)

    policy = (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return page, policy
