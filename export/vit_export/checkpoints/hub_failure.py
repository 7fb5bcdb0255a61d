"""Why a hub's client failed, in words: this machine's own causes before the network's."""

import errno
import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from socket import gaierror
from urllib.request import getproxies_environment

from vit_engine.errors import limit_in_words, one_line, printable

ADDRESS = re.compile(
    r"(https?|socks(4a?|5h?))://([^/@]*@)?(\[[^\]]+\]|[^/:@\s\[]+)(:\d+)?(/[^@\s]*)?", re.IGNORECASE
)
"""A proxy's or a hub's: scheme, perhaps user and password, host, port, path."""
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_CHINESE = re.compile("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
_CHINESE_WORDS = {
    "时限": "the time limit of the download is used up",
    "超过": "an answer took too long",
    "重试": "several tries have failed",
    "取消": "the download was cancelled",
    "不一致": "fewer bytes came than the hub had announced",
    "不匹配": "other bytes came than were asked for",
    "不存在": "it does not exist",
}
"""What parts of ModelScope's own errors mean, of which some are in Chinese alone."""
HTTP_CLIENTS = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2"}
"""Packages whose own errors speak of the connection, where nothing else explains them."""


@dataclass(frozen=True)
class Hub:
    """What is set on this machine for a hub's client."""

    endpoint: str  # the variable that holds the hub's address
    caches: tuple[str, ...]  # variables that say where its cache lies: the first that is set counts
    socks: str  # what to install for SOCKS proxies
    login: str  # the command


MODELSCOPE = Hub(
    endpoint="MODELSCOPE_ENDPOINT",
    caches=("MODELSCOPE_CACHE",),
    socks="requests[socks]",
    login="modelscope login",
)
HUGGING_FACE_HUB = Hub(
    endpoint="HF_ENDPOINT",
    caches=("HF_HUB_CACHE", "HF_HOME"),
    socks="httpx[socks]",
    login="hf auth login",
)


def reason_in_words(error: BaseException, hub: Hub) -> str:
    """Return why the client of `hub` failed and what to do about it."""
    failed = getattr(error, "failed_files", None)  # modelscope's error for some of many files
    name, error = next(iter(failed.items())) if failed else (None, error)
    causes = list(_causes(error))
    local = (
        next(filter(None, (_storage(cause, hub) for cause in causes)), None)
        or _packages(causes, hub)
        or _answer(causes, hub)
        or _settings(hub)
    )
    if local:
        return local
    told = f"{type(error).__name__}: {_in_english(causes)}"
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return (
            f"the hub's certificate is not trusted ({_in_english(causes)}); name a file of "
            "certificates in SSL_CERT_FILE and REQUESTS_CA_BUNDLE"
        )
    if name:
        return f"{name} did not arrive whole ({told}); try again"
    if not any(map(_is_of_the_network, causes)):
        return f"cannot be downloaded ({told})"
    proxies = "".join(f", and the proxy in {variable}" for variable in _proxies())
    return f"cannot be downloaded ({told}); check the network and the hub's address{proxies}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and those behind it; the clients' own are long, or in Chinese."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _in_english(causes: list[BaseException]) -> str:
    """Return the text of the innermost cause that is not in Chinese, or what theirs mean."""
    texts = [one_line(cause, 160) for cause in reversed(causes)]
    for text in texts:
        if not _CHINESE.search(text):
            return text
    found = (words for text in texts for part, words in _CHINESE_WORDS.items() if part in text)
    return next(found, "its client tells the cause in Chinese alone")


def _storage(cause: BaseException, hub: Hub) -> str | None:
    """Say what is wrong with the cache on this machine's disk."""
    if limit := limit_in_words(cause):
        full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"{limit}; make room, or set {_cache(hub)} to another folder" if full else limit
    if isinstance(cause, OSError) and cause.filename is not None:  # of a socket there is none
        return (
            f"the cache cannot be used: {printable(os.fsdecode(cause.filename))} "
            f"({cause.strerror}); set {_cache(hub)} to a folder that can be written, or add "
            "--offline if the model is in the cache already"
        )
    return None


def _cache(hub: Hub) -> str:
    return next(filter(os.environ.get, hub.caches), hub.caches[-1])


def _packages(causes: list[BaseException], hub: Hub) -> str | None:
    """Say which package is missing; requests knows no better than InvalidSchema for it."""
    for cause in causes:
        missing = isinstance(cause, ImportError)
        if missing or type(cause).__name__ == "InvalidSchema":
            for variable, value in _proxies().items():
                if value.lower().startswith("socks"):
                    return (
                        f"{variable} is {_shown(value)!r}, a SOCKS proxy, which takes another "
                        f"package: pip install '{hub.socks}'"
                    )
        if missing:
            return f"{one_line(cause, 160)}; pip install 'vit-engine[export]'"
    return None


def _answer(causes: list[BaseException], hub: Hub) -> str | None:
    """Say what the hub answered, where it did."""
    for cause in causes:
        response = getattr(cause, "response", None)
        for status in (getattr(cause, "status_code", None), getattr(response, "status_code", None)):
            if status == 404:
                return "the hub has no such model or revision (404)"
            if status in (401, 403):
                return (
                    f"the hub does not give it to you ({status}); check the name, and log in if "
                    f"it is private or gated: {hub.login}"
                )
            if status is not None and (status == 429 or status >= 500):
                return f"the hub answers with HTTP status {status}; try again later"
    return None


def _settings(hub: Hub) -> str | None:
    """Say which environment variable holds something that no client can work with."""
    proxies = _proxies()
    endpoint = os.environ.get(hub.endpoint)
    for variable, value in (proxies | ({hub.endpoint: endpoint} if endpoint else {})).items():
        if not ADDRESS.fullmatch(value):
            scheme = "http" if variable in proxies else "https"
            host = _shown(value).rpartition("://")[2]
            return (
                f"cannot be downloaded: {variable} is {_shown(value)!r}, expected an address "
                f"with its scheme; set {variable}={scheme}://{host}"
            )
    for variable in CERTIFICATES:
        file = os.environ.get(variable)
        if file and not Path(file).exists():
            return (
                f"cannot be downloaded: {variable} is {file!r}, and there is no such file; "
                f"name one, or unset {variable}"
            )
    return None


def _proxies() -> dict[str, str]:
    """Return the variables that name a proxy for the web, as they are spelled, and their values."""
    found = {}
    for scheme, value in getproxies_environment().items():
        if scheme in ("http", "https", "all"):
            lower, upper = f"{scheme}_proxy", f"{scheme}_proxy".upper()
            found[lower if os.environ.get(lower) else upper] = value
    return found


def _shown(address: str) -> str:
    """Return an address without the password in it."""
    return re.sub(r"[^/@]*@", "***@", address)


def _is_of_the_network(cause: BaseException) -> bool:
    kinds = (ConnectionError, TimeoutError, gaierror, ssl.SSLError, HTTPException)
    return isinstance(cause, kinds) or type(cause).__module__.partition(".")[0] in HTTP_CLIENTS
