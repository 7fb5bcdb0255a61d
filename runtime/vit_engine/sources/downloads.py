"""Reading http(s) URLs, within limits of size and time."""

import re
import time
import urllib.error
import urllib.request
from typing import Any

from vit_engine.errors import ImageError
from vit_engine.sources.item import LIMITS, Limits

URL_TIMEOUT = 30.0
"""Seconds for a whole download, and for each wait on the network within it."""

_URL = re.compile(r"https?://", re.IGNORECASE)


def is_url(source: str) -> bool:
    """Tell whether a source is to be downloaded."""
    return _URL.match(source) is not None


def bytes_from_url(url: str, *, limits: Limits = LIMITS, timeout: float = URL_TIMEOUT) -> bytes:
    """Download an image: at most `limits.max_bytes`, within `timeout` seconds in all."""
    deadline = time.monotonic() + timeout
    parts, size = [], 0
    try:
        with _opener().open(url, timeout=timeout) as response:
            expected = response.length
            if expected is not None and expected > limits.max_bytes:
                raise ImageError(
                    "too_large", f"has {expected} bytes, the limit is {limits.max_bytes}"
                )
            while part := response.read1(2**16):
                size += len(part)
                if size > limits.max_bytes:
                    raise ImageError("too_large", f"has more than {limits.max_bytes} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError
                parts.append(part)
    except urllib.error.HTTPError as e:
        with e:
            code = "permission" if e.code in (401, 403) else "missing"
            raise ImageError(code, f"the server answered {e.code} {e.reason}".rstrip()) from e
    except TimeoutError as e:
        raise ImageError("timeout", f"was not downloaded within {timeout:g} s") from e
    except (OSError, ValueError, EOFError) as e:
        reason = getattr(e, "reason", e)
        if isinstance(reason, TimeoutError):
            raise ImageError("timeout", f"was not downloaded within {timeout:g} s") from e
        raise ImageError("missing", f"cannot be downloaded: {reason}") from e
    if expected is not None and size < expected:
        raise ImageError("truncated", f"the download ended after {size} of {expected} bytes")
    if not size:
        raise ImageError("empty", "is empty")
    return b"".join(parts)


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http(s) alone: urllib would go to ftp too."""

    def redirect_request(self, *request: Any) -> urllib.request.Request | None:
        if not is_url(request[-1]):
            request[1].close()
            raise ValueError(f"redirected to {request[-1]:.80}, not http or https")
        return super().redirect_request(*request)


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.build_opener(_HttpOnly)
    opener.addheaders = [("User-Agent", "vit-engine"), ("Accept", "image/*,*/*;q=0.5")]
    return opener
