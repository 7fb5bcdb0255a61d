"""Reading http(s) URLs, within limits of size and time."""

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vit_engine.errors import ImageError, one_line, printable
from vit_engine.sources.files import too_many_bytes
from vit_engine.sources.sample import LIMITS, Limits
from vit_engine.sources.urls import (
    Url,
    addresses,
    is_public,
    is_url,
    numeric_addresses,
    proxy_for,
    url_from_text,
)

if TYPE_CHECKING:
    import socket
    import ssl
    from http.client import HTTPResponse

# The network's own modules take 25 ms to import, a fifth of a decoder process's start: they are
# imported where something is downloaded.

URL_TIMEOUT = 30.0
"""Seconds for a whole download: looking its host up, connecting, redirects, headers and body."""

MOST_REDIRECTS = 5

_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"User-Agent": "vit-engine", "Accept": "image/*,*/*;q=0.5", "Connection": "close"}


def bytes_from_url(
    url: str,
    *,
    limits: Limits = LIMITS,
    timeout: float = URL_TIMEOUT,
    private_redirects: bool = False,
) -> bytes:
    """Download an image: at most `limits.max_bytes`, within `timeout` seconds in all.

    ImageError for whatever a server may do wrong. A redirect leads to no address that is not public
    (loopback, private, link-local, reserved) unless the URL itself was there and the redirect stays
    on its host, or with `private_redirects`. Proxies are those of the environment.
    """
    import http.client

    download = _Download(limits, timeout, private_redirects=private_redirects)
    result: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            result.put(download.body(url))
        except BaseException as e:  # noqa: BLE001  raised where it is waited for
            result.put(e)

    # A thread, since the resolver knows no deadline, and a socket's bounds each wait, not all.
    threading.Thread(target=work, daemon=True).start()
    try:
        found = result.get(timeout=timeout)
        if isinstance(found, BaseException):
            raise found
    except (TimeoutError, queue.Empty) as e:
        download.abort()
        raise ImageError("timeout", f"was not downloaded within {timeout:g} s") from e
    except http.client.HTTPException as e:
        message = f"the server's answer is not HTTP ({_shown(e)})"
        raise ImageError("missing", f"cannot be downloaded: {message}") from e
    except (OSError, ValueError) as e:
        raise ImageError("missing", f"cannot be downloaded: {_shown(e)}") from e
    return found


def _shown(found: Exception | str) -> str:
    """Return what a server or a library says, fit for a row."""
    return printable(one_line(found, 120))


class _Download:
    """One download: its connection of the moment, and where its redirects may lead."""

    def __init__(self, limits: Limits, timeout: float, *, private_redirects: bool) -> None:
        self._limits, self._deadline = limits, time.monotonic() + timeout
        self._private_redirects = private_redirects
        self._home: set[str] | None = None  # host and address of the first URL, if not public
        self._socket: socket.socket | None = None

    def body(self, text: str) -> bytes:
        """Ask for a URL, and for those that it is redirected to."""
        url = url_from_text(text)
        for _ in range(MOST_REDIRECTS + 1):
            with self._answer(url) as answer:
                if answer.status not in _REDIRECTS:
                    return _body(answer, self._limits)
                url = _redirected(url, answer)
        raise ImageError("missing", f"was redirected more than {MOST_REDIRECTS} times")

    def abort(self) -> None:
        """End what is being received; what comes before that ends at the deadline by itself."""
        import socket

        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _answer(self, url: Url) -> Iterator["HTTPResponse"]:
        """Ask a host, or the proxy for it, and give the answer, its headers read."""
        from http.client import HTTPConnection, HTTPSConnection

        proxy = proxy_for(url)
        at = proxy or url
        connection = (
            HTTPSConnection(at.host, at.port, timeout=self._left(), context=_tls())
            if url.secure
            else HTTPConnection(at.host, at.port, timeout=self._left())
        )
        target, headers = url.target, _HEADERS | url.authorization("Authorization")
        with contextlib.closing(connection):
            if proxy is None:
                connection.sock = self._connected(url)
                if url.secure:
                    connection.sock = _tls().wrap_socket(connection.sock, server_hostname=url.host)
            else:
                # A name is the proxy's to look up, and to refuse: only numbers can be judged here.
                numbers = self._admitted(url, numeric_addresses(url))
                self._entered(url, numbers[0] if numbers else None)
                password = proxy.authorization("Proxy-Authorization")
                if url.secure:
                    connection.set_tunnel(url.host, url.port, password)
                else:
                    target, headers = str(url), headers | password
                connection.connect()
            self._socket = connection.sock
            connection.request("GET", target, headers=headers)
            with connection.getresponse() as answer:
                while 100 <= answer.status < 200:  # http.client itself passes over 100 alone
                    answer.headers = None  # type: ignore[assignment]
                    answer.begin()
                yield answer

    def _connected(self, url: Url) -> "socket.socket":
        """Connect to the first address of a host that answers; each has its share of the time."""
        import socket

        ips = self._admitted(url, addresses(url))
        failure = OSError("the host has no address")
        for i, ip in enumerate(ips):
            left = self._left()
            try:
                connected = socket.create_connection((ip, url.port), left / (len(ips) - i))
            except OSError as e:
                failure = e
            else:
                connected.settimeout(left)
                self._entered(url, ip)
                return connected
        raise failure

    def _admitted(self, url: Url, ips: list[str]) -> list[str]:
        """Return those addresses of a host that may be connected to; ImageError if none may."""
        if self._private_redirects or self._home is None or url.host in self._home:
            return ips
        admitted = [ip for ip in ips if is_public(ip) or ip in self._home]
        if ips and not admitted:
            raise ImageError(
                "permission",
                f"was redirected to {ips[0]}, which is no public address, and that is refused; "
                "--allow-private-redirects follows it",
            )
        return admitted

    def _entered(self, url: Url, ip: str | None) -> None:
        """Remember where the first URL led; `ip` is None where a proxy alone knows."""
        if self._home is None:
            self._home = set() if ip is None or is_public(ip) else {url.host, ip}

    def _left(self) -> float:
        """Return the seconds until the deadline; TimeoutError if it is past."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


@functools.cache
def _tls() -> "ssl.SSLContext":
    import ssl

    return ssl.create_default_context()


def _redirected(url: Url, answer: "HTTPResponse") -> Url:
    from urllib.parse import urljoin

    location = answer.headers.get("Location")
    if not location:
        raise ImageError("missing", f"the server answered {answer.status} without saying where to")
    # http.client takes the bytes of headers for Latin-1, browsers for UTF-8.
    text = urljoin(str(url), location.encode("latin-1").decode("utf-8", "surrogateescape"))
    if not is_url(text):
        message = f"was redirected to {_shown(text)}, which is not http or https"
        raise ImageError("missing", message)
    return url_from_text(text)


def _body(answer: "HTTPResponse", limits: Limits) -> bytes:
    import http.client

    if not 200 <= answer.status < 300:
        code = "permission" if answer.status in (401, 403, 407) else "missing"
        message = f"the server answered {_shown(f'{answer.status} {answer.reason}')}"
        raise ImageError(code, message)
    expected = answer.length
    if expected is not None and expected > limits.max_bytes:
        raise too_many_bytes(expected, limits)
    data = bytearray()
    try:
        while part := answer.read1(2**16):
            data += part
            if len(data) > limits.max_bytes:
                raise ImageError("too_large", f"has more than {limits.max_bytes} bytes")
    except TimeoutError:
        raise
    except (http.client.HTTPException, OSError, ValueError) as e:
        message = f"the download broke off after {len(data)} bytes ({_shown(e)})"
        raise ImageError("truncated", message) from e
    if expected is not None and len(data) < expected:
        message = f"the download ended after {len(data)} of {expected} bytes"
        raise ImageError("truncated", message)
    if not data:
        raise ImageError("empty", "is empty")
    return bytes(data)
