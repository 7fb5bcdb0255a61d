"""Reading http(s) URLs, within limits of size and time."""

import base64
import functools
import io
import queue
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vit_engine.errors import ImageError, one_line, printable
from vit_engine.sources.item import LIMITS, Limits

if TYPE_CHECKING:
    import socket
    import ssl
    from http.client import HTTPResponse

# The network's own modules take 25 ms to import, a fifth of a decoder process's start: they are
# imported where something is downloaded.

URL_TIMEOUT = 30.0
"""Seconds for a whole download: looking its host up, connecting, redirects, headers and body."""

MOST_REDIRECTS = 5

_URL = re.compile(r"https?://", re.IGNORECASE)
_REDIRECTS = (301, 302, 303, 307, 308)
_SAFE = "%/?:@!$&'()*+,;=~[]"  # stays as it is in a URL: RFC 3986, and what is escaped already


def is_url(source: str) -> bool:
    """Tell whether a source is to be downloaded."""
    return _URL.match(source) is not None


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

    deadline = time.monotonic() + timeout
    gate = _Gate(is_open=private_redirects)
    try:
        place = _place_from_url(url)
        for _ in range(MOST_REDIRECTS + 1):
            with _answer(place, gate, deadline) as answer:
                if answer.status not in _REDIRECTS:
                    return _body(answer, limits)
                place = _place_from_url(_target(place, answer))
        raise ImageError("missing", f"was redirected more than {MOST_REDIRECTS} times")
    except TimeoutError as e:
        raise ImageError("timeout", f"was not downloaded within {timeout:g} s") from e
    except http.client.HTTPException as e:
        words = f"the server's answer is not HTTP ({_shown(e)})"
        raise ImageError("missing", f"cannot be downloaded: {words}") from e
    except (OSError, ValueError) as e:
        raise ImageError("missing", f"cannot be downloaded: {_shown(e)}") from e


def _shown(found: Exception | str) -> str:
    """Return what a server or a library says, fit for a row."""
    return printable(one_line(found, 120))


@dataclass(frozen=True)
class _Place:
    """A URL in its parts, escaped: `target` is the path and the query."""

    secure: bool
    host: str
    port: int
    target: str
    credentials: str

    @property
    def authority(self) -> str:
        """What stands between the slashes: host, and port where it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL again, without credentials."""
        return f"{'https' if self.secure else 'http'}://{self.authority}{self.target}"


def _place_from_url(url: str) -> _Place:
    """Take a URL apart; ValueError for one that is none."""
    from urllib.parse import quote, unquote, urlsplit

    parts = urlsplit(url.strip())
    host = (parts.hostname or "").encode("idna").decode()
    if not host or not host.isprintable() or " " in host:
        raise ValueError("the URL names no host")
    secure = parts.scheme.lower() == "https"
    target = quote(parts.path or "/", _SAFE, errors="surrogateescape")
    if parts.query:
        target += "?" + quote(parts.query, _SAFE, errors="surrogateescape")
    credentials = ""
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        credentials = base64.b64encode(user.encode("utf-8", "surrogateescape")).decode()
    port = (443 if secure else 80) if parts.port is None else parts.port
    return _Place(secure, host, port, target, credentials)


def _target(place: _Place, answer: "HTTPResponse") -> str:
    """Return the URL that a redirect leads to."""
    from urllib.parse import urljoin

    location = answer.headers.get("Location")
    if not location:
        raise ImageError("missing", f"the server answered {answer.status} without saying where to")
    # http.client takes the bytes of headers for Latin-1, browsers for UTF-8.
    url = urljoin(place.url, location.encode("latin-1").decode("utf-8", "surrogateescape"))
    if not is_url(url):
        words = f"was redirected to {_shown(url)}, which is not http or https"
        raise ImageError("missing", words)
    return url


class _Gate:
    """Keeps redirects from addresses that are not public, unless the first URL was there."""

    def __init__(self, *, is_open: bool) -> None:
        self._is_open = is_open
        self._home: frozenset[str] | None = None  # host and address of the first URL, if private

    def admitted(self, host: str, addresses: "list[_Address]") -> "list[_Address]":
        """Return those addresses of a host that may be connected to; ImageError if none may."""
        if self._is_open or self._home is None or host in self._home:
            return addresses
        admitted = [a for a in addresses if _is_public(a.ip) or a.ip in self._home]
        if addresses and not admitted:
            raise ImageError(
                "permission",
                f"was redirected to {addresses[0].ip}, which is no public address, and that is "
                "refused; --allow-private-redirects follows it",
            )
        return admitted

    def entered(self, host: str, ip: str | None) -> None:
        """Remember where the first URL led; `ip` is None where a proxy alone knows."""
        if self._home is None:
            is_private = ip is not None and not _is_public(ip)
            self._home = frozenset((host, ip)) if ip and is_private else frozenset()


@dataclass(frozen=True)
class _Address:
    """Where a host can be reached: what a socket is made of, and what it is connected to."""

    family: int
    kind: int
    protocol: int
    place: tuple[Any, ...]

    @property
    def ip(self) -> str:
        return str(self.place[0])


@contextmanager
def _answer(place: _Place, gate: _Gate, deadline: float) -> Iterator["HTTPResponse"]:
    """Ask for a URL, and give the answer, its headers read."""
    proxy = _proxy_for(place)
    target, headers = place.target, _authorization(place, "Authorization")
    if proxy is None:
        ip, sock = _connected(gate.admitted(place.host, _addresses(place, deadline)), deadline)
        gate.entered(place.host, ip)
    else:
        # A name is the proxy's to look up, and to refuse: only numbers can be judged here.
        numbers = gate.admitted(place.host, _numbers(place))
        gate.entered(place.host, numbers[0].ip if numbers else None)
        _, sock = _connected(_addresses(proxy, deadline), deadline)
        if not place.secure:
            target, headers = place.url, headers + _authorization(proxy, "Proxy-Authorization")
    try:
        if proxy and place.secure:
            _tunnel(sock, proxy, place, deadline)
        if place.secure:
            sock.settimeout(_left(deadline))
            sock = _tls().wrap_socket(sock, server_hostname=place.host)
        request = (f"GET {target} HTTP/1.1", f"Host: {place.authority}", *_HEADERS, *headers)
        with _response(sock, request, deadline) as answer:
            yield answer
    finally:
        sock.close()


_HEADERS = (
    "User-Agent: vit-engine",
    "Accept: image/*,*/*;q=0.5",
    "Accept-Encoding: identity",
    "Connection: close",
)


def _authorization(place: _Place, name: str) -> tuple[str, ...]:
    return (f"{name}: Basic {place.credentials}",) if place.credentials else ()


def _proxy_for(place: _Place) -> _Place | None:
    """Return the proxy that the environment names for a URL."""
    from urllib.request import getproxies, proxy_bypass

    proxy = getproxies().get("https" if place.secure else "http")
    if not proxy or proxy_bypass(place.authority):
        return None
    scheme, found, rest = proxy.partition("://")
    if found and scheme.lower() != "http":
        raise ValueError(f"the proxy is {scheme}://, and has to be http://")
    return _place_from_url(f"http://{rest if found else proxy}")


def _tunnel(sock: "socket.socket", proxy: _Place, place: _Place, deadline: float) -> None:
    """Have a proxy connect to the host of an https URL."""
    host = f"[{place.host}]" if ":" in place.host else place.host
    line = f"{host}:{place.port}"
    request = (
        f"CONNECT {line} HTTP/1.1",
        f"Host: {line}",
        *_authorization(proxy, "Proxy-Authorization"),
    )
    with _response(sock, request, deadline) as answer:
        if answer.status != 200:
            raise _refusal(answer, "the proxy")


def _addresses(place: _Place, deadline: float) -> list[_Address]:
    """Look a host up, on a thread of its own: the resolver knows no deadline."""
    if numbers := _numbers(place):
        return numbers
    found: queue.SimpleQueue[list[_Address] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(_looked_up(place))
        except (OSError, ValueError) as e:
            found.put(e)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        addresses = found.get(timeout=_left(deadline))
    except queue.Empty as e:
        raise TimeoutError from e
    if isinstance(addresses, Exception):
        raise addresses
    return addresses


def _numbers(place: _Place) -> list[_Address]:
    """Return the addresses of a host that is given by number; none for a name."""
    import socket

    try:
        return _looked_up(place, socket.AI_NUMERICHOST)
    except socket.gaierror:
        return []


def _looked_up(place: _Place, flags: int = 0) -> list[_Address]:
    import socket

    found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=flags)
    return [_Address(family, kind, protocol, at) for family, kind, protocol, _, at in found]


def _is_public(ip: str) -> bool:
    """Tell whether an address is on the public internet; one that holds an IPv4 one is that."""
    import ipaddress

    found = ipaddress.ip_address(ip)
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in ipaddress.IPv6Network("64:ff9b::/96"):  # NAT64, RFC 6052
            inner = ipaddress.IPv4Address(int(found) % 2**32)
        if inner is None:  # RFC 4291: global unicast, of which parts are reserved
            return found in ipaddress.IPv6Network("2000::/3") and found.is_global
        found = inner
    return found.is_global and not found.is_multicast


def _connected(addresses: Sequence[_Address], deadline: float) -> tuple[str, "socket.socket"]:
    """Connect to the first address that answers, and say which; each has its share of the time."""
    import socket

    failure = OSError("the host has no address")
    for i, address in enumerate(addresses):
        sock = socket.socket(address.family, address.kind, address.protocol)
        try:
            sock.settimeout(_left(deadline) / (len(addresses) - i))
            sock.connect(address.place)
        except OSError as e:
            sock.close()
            failure = e
        else:
            return address.ip, sock
    raise failure


@functools.cache
def _tls() -> "ssl.SSLContext":
    import ssl

    return ssl.create_default_context()


def _response(sock: "socket.socket", request: Sequence[str], deadline: float) -> "HTTPResponse":
    """Send a request and return its answer, the headers read."""
    import http.client

    sock.settimeout(_left(deadline))
    sock.sendall("\r\n".join((*request, "", "")).encode("ascii"))
    received: Any = _Received(sock, deadline)
    answer = http.client.HTTPResponse(received, method=request[0].split()[0])
    answer.begin()
    return answer


class _Received(io.RawIOBase):
    """What comes in on a socket until the deadline: its own timeout bounds each wait, not all."""

    def __init__(self, sock: "socket.socket", deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_left(self._deadline))
        return self._sock.recv_into(buffer)

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002  a socket's
        """Return itself buffered, which is all that HTTPResponse asks of a socket."""
        return io.BufferedReader(self)


def _left(deadline: float) -> float:
    """Return the seconds until the deadline; TimeoutError if it is past."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _body(answer: "HTTPResponse", limits: Limits) -> bytes:
    import http.client

    if not 200 <= answer.status < 300:
        raise _refusal(answer, "the server")
    expected = answer.length
    if expected is not None and expected > limits.max_bytes:
        raise ImageError("too_large", f"has {expected} bytes, the limit is {limits.max_bytes}")
    parts, size = [], 0
    try:
        while part := answer.read1(2**16):
            parts.append(part)
            size += len(part)
            if size > limits.max_bytes:
                raise ImageError("too_large", f"has more than {limits.max_bytes} bytes")
    except TimeoutError:
        raise
    except (http.client.HTTPException, OSError, ValueError) as e:
        words = f"the download broke off after {size} bytes ({_shown(e)})"
        raise ImageError("truncated", words) from e
    if expected is not None and size < expected:
        raise ImageError("truncated", f"the download ended after {size} of {expected} bytes")
    if not size:
        raise ImageError("empty", "is empty")
    return b"".join(parts)


def _refusal(answer: "HTTPResponse", who: str) -> ImageError:
    code = "permission" if answer.status in (401, 403, 407) else "missing"
    return ImageError(code, f"{who} answered {_shown(f'{answer.status} {answer.reason}')}")
