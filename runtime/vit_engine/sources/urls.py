"""URLs of http and https in their parts, their proxies, and where their hosts are."""

import base64
import re
from dataclasses import dataclass

_SAFE = "%/?:@!$&'()*+,;=~[]"  # stays as it is in a URL: RFC 3986, and what is escaped already

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_HTTP = re.compile(r"https?://", re.IGNORECASE)


def is_remote(source: str) -> bool:
    """Tell whether a source has a scheme: a URL to be downloaded, or an object store's."""
    return _SCHEME.match(source) is not None


def bytes_from_data_uri(uri: bytes) -> bytes:
    """Return what a data URI holds (RFC 2397), its base64 wrapped or not; ValueError if nothing."""
    from urllib.parse import unquote_to_bytes

    head, comma, body = uri.partition(b",")
    if not comma:
        raise ValueError("it has no comma before its data")
    body = unquote_to_bytes(body)
    if head.rstrip().lower().endswith(b";base64"):
        return base64.b64decode(b"".join(body.split()), validate=True)
    return body


def is_url(source: str) -> bool:
    """Tell whether a source is to be downloaded."""
    return _HTTP.match(source) is not None


@dataclass(frozen=True)
class Url:
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

    def __str__(self) -> str:
        """Return the URL again, without credentials."""
        return f"{'https' if self.secure else 'http'}://{self.authority}{self.target}"

    def authorization(self, header: str) -> dict[str, str]:
        """The header that says who asks, where the URL did."""
        return {header: f"Basic {self.credentials}"} if self.credentials else {}


def url_from_text(text: str) -> Url:
    """Take a URL apart; ValueError for one that is none."""
    from urllib.parse import quote, unquote, urlsplit

    parts = urlsplit(text.strip())
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
    return Url(secure, host, port, target, credentials)


def proxy_for(url: Url) -> Url | None:
    """Return the proxy that the environment names for a URL."""
    from urllib.request import getproxies, proxy_bypass

    proxy = getproxies().get("https" if url.secure else "http")
    if not proxy or proxy_bypass(url.authority):
        return None
    scheme, found, rest = proxy.partition("://")
    if found and scheme.lower() != "http":
        raise ValueError(f"the proxy is {scheme}://, and has to be http://")
    return url_from_text(f"http://{rest if found else proxy}")


def addresses(url: Url, flags: int = 0) -> list[str]:
    """Look a host up; OSError where it has no address. It takes as long as the resolver does."""
    import socket

    found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM, flags=flags)
    return [str(address[0]) for *_, address in found]


def numeric_addresses(url: Url) -> list[str]:
    """Return the addresses of a host that is given by number; none for a name."""
    import socket

    try:
        return addresses(url, socket.AI_NUMERICHOST)
    except socket.gaierror:
        return []


def is_public(ip: str) -> bool:
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
