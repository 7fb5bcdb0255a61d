"""Why a hub's client failed: the cause, the host that was asked, and the variables that are set."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.request import getproxies_environment

from vit_engine.errors import format_limit, one_line, printable
from vit_export.packages.optional import causes

CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


@dataclass(frozen=True)
class Hub:
    """What a hub's client reads from the environment, and how to log in."""

    endpoint: str  # the variable that holds the hub's address
    address: str  # where it is not set
    caches: tuple[str, ...]  # variables that say where its cache lies: the first that is set counts
    login: str  # the command


MODELSCOPE = Hub(
    "MODELSCOPE_ENDPOINT", "https://modelscope.cn", ("MODELSCOPE_CACHE",), "modelscope login"
)
HUGGING_FACE_HUB = Hub(
    "HF_ENDPOINT", "https://huggingface.co", ("HF_HUB_CACHE", "HF_HOME"), "hf auth login"
)


def reason_in_words(error: BaseException, hub: Hub) -> str:
    """Return why the client of `hub` failed and what to do about it."""
    if failed := getattr(error, "failed_files", None):  # ModelScope's, where some files failed
        error = next(iter(failed.values()))
    found = list(causes(error))  # the clients' own are long, or in Chinese
    cache = next(filter(os.environ.get, hub.caches), hub.caches[-1])
    for cause in found:
        if limit := format_limit(cause):
            return f"{limit}; {cache} says where the files go"
        if isinstance(cause, OSError) and cause.filename is not None:  # of a socket there is none
            return (
                f"the cache cannot be used: {printable(os.fsdecode(cause.filename))} "
                f"({cause.strerror}); set {cache} to a folder that can be written, or add "
                "--offline if the model is in the cache already"
            )
        response = getattr(cause, "response", cause)
        match getattr(response, "status_code", getattr(cause, "status_code", None)):
            case 404:
                return "the hub has no such model or revision (404)"
            case 401 | 403 as status:
                return (
                    f"the hub does not give it to you ({status}); check the name, and log in if "
                    f"it is private or gated: {hub.login}"
                )
            case int(status) if status == 429 or status >= 500:
                return f"the hub answers with HTTP status {status}; try again later"
    # The innermost cause tells most; ModelScope's own are in Chinese.
    texts = [one_line(cause, 160) for cause in reversed(found)]
    told = next(filter(str.isascii, texts), texts[0])
    seen = {name: os.environ[name] for name in _variables(hub) if name in os.environ}
    shown = ", ".join(f"{name}={_masked(value)}" for name, value in seen.items())
    return (
        f"cannot be downloaded from {_masked(seen.get(hub.endpoint, hub.address))} "
        f"({type(error).__name__}: {_masked(told)}); try again, or check the network"
        + (f", and what is set here: {shown}" if shown else "")
    )


def _variables(hub: Hub) -> Iterator[str]:
    """Yield the names of variables that a download depends on."""
    yield from (hub.endpoint, *CERTIFICATES)
    for scheme in getproxies_environment().keys() & {"http", "https", "all"}:
        yield from (f"{scheme}_proxy", f"{scheme}_proxy".upper())


def _masked(text: str) -> str:
    """Return a text without the users and passwords in its addresses."""
    return re.sub(r"[^\s/@]*@", "***@", printable(text))
