"""Whatever a server does, a download is an image's bytes or an error in words, and in time."""

import contextlib
import gzip
import io
import random
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from support import slow_case
from vit_engine.errors import ImageError
from vit_engine.sources import downloads, urls
from vit_engine.sources.downloads import bytes_from_url
from vit_engine.sources.find import samples_from_sources
from vit_engine.sources.read import bytes_from_item
from vit_engine.sources.sample import Limits, Sample

_FILE = io.BytesIO()
Image.new("RGB", (9, 7), "teal").save(_FILE, "PNG")
PNG = _FILE.getvalue()
# The same bytes in each process: they are in the names of tests.
PACKED, PACKED_LARGE = (gzip.compress(data, mtime=0) for data in (PNG, b"x" * 5000))

CODES = {"missing", "timeout", "truncated", "too_large", "permission", "empty", "decode"}

Answer = Callable[[socket.socket, bytes], None]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def serving(
    answer: Answer, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """A server that answers each connection as told, on a thread of its own; gives the port."""

    def work(plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            tls.wrap_socket(plain, server_side=True) if tls else plain as connection,
        ):
            request = b""
            while b"\r\n\r\n" not in request and (part := connection.recv(4096)):
                request += part
            answer(connection, request)
            if isinstance(connection, ssl.SSLSocket):
                connection.unwrap()
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(1)
            while connection.recv(4096):  # no reset before the client has read
                pass

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=work, args=(connection,), daemon=True).start()

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def sending(data: bytes) -> Answer:
    return lambda connection, _: connection.sendall(data)


def replying(reply: Callable[[bytes], bytes], requests: list[bytes]) -> Answer:
    """Keep each request, and send what the reply to it is."""

    def answer(connection: socket.socket, request: bytes) -> None:
        requests.append(request)
        connection.sendall(reply(request))

    return answer


def moved(to: str, status: str = "302 Found") -> bytes:
    return head(f"Location: {to}", status=status)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """Names of hosts, with the addresses that they have each time they are looked up."""
    real, known = socket.getaddrinfo, dict[str, list[list[str]]]()

    def look_up(host, port, *rest, flags=0, **options):
        if host not in known:
            return real(host, port, *rest, flags=flags, **options)
        if flags:
            raise socket.gaierror
        return [found for ip in known[host].pop(0) for found in real(ip, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


def trickling(data: bytes, pause: float) -> Answer:
    def answer(connection: socket.socket, _: bytes) -> None:
        for i in range(len(data)):
            connection.sendall(data[i : i + 1])
            time.sleep(pause)

    return answer


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode("latin-1")


def sized(body: bytes = PNG, status: str = "200 OK") -> bytes:
    return head(f"Content-Length: {len(body)}", status=status) + body


def refusal(url: str, **options) -> ImageError:
    with pytest.raises(ImageError) as e:
        bytes_from_url(url, **({"timeout": 5} | options))
    assert e.value.code in CODES
    assert "\n" not in str(e.value) and len(str(e.value)) < 400
    return e.value


@pytest.mark.parametrize(
    "answer",
    [
        sized(),
        head() + PNG,
        b"HTTP/1.0 200 OK\n\n" + PNG,
        head("Transfer-Encoding: chunked") + b"5\r\n" + PNG[:5] + b"\r\n%x;x=y\r\n" % len(PNG[5:])
        + PNG[5:] + b"\r\n0\r\nTrailer: x\r\n\r\n",
        head(status="100 Continue") + head("Link: </a>", status="103 Early Hints") * 2 + sized(),
        head("Content-Encoding: gzip") + PACKED,
        b"HTTP/1.1 200\r\n\r\n" + PNG,
        head("Content-Length: -5") + PNG,
        head("Content-Length: many") + PNG,
        head(*(f"X-{i}: {i}" for i in range(90))) + PNG,
    ],
)  # fmt: skip
def test_images_are_downloaded(answer: bytes) -> None:
    with serving(sending(answer)) as port:
        (item,) = samples_from_sources([f"http://127.0.0.1:{port}/a.png"])
        assert bytes_from_item(item) == PNG


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (b"", "missing", "without response"),
        (b"\r\n\r\n", "missing", "is not HTTP"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "missing", "is not HTTP"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "missing", "is not HTTP"),
        (b"HTTP/1.1 99999 OK\r\n\r\n", "missing", "is not HTTP"),
        (b"HTTP/9.9 200 OK\r\n\r\n", "missing", "is not HTTP"),
        (b"ICY 200 OK\r\n\r\n" + PNG, "missing", "is not HTTP"),
        (b"HTTP/1.1 200 " + b"x" * 70_000, "missing", "is not HTTP"),
        (head("X: " + "x" * 70_000) + PNG, "missing", "is not HTTP"),
        (head(*(f"X-{i}: {i}" for i in range(200))) + PNG, "missing", "is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "empty", "is empty"),
        (head(status="204 No Content"), "empty", "is empty"),
        (sized(b""), "empty", "is empty"),
        (head("Content-Length: 100") + PNG[:20], "truncated", "after 20 of 100 bytes"),
        (head("Transfer-Encoding: chunked") + b"zz\r\n" + PNG, "truncated", "broke off"),
        (head("Transfer-Encoding: chunked") + b"-5\r\n" + PNG, "truncated", "broke off"),
        (head("Transfer-Encoding: chunked") + b"50\r\nab", "truncated", "broke off after 2"),
        (head("Transfer-Encoding: chunked") + b"2\r\nab", "truncated", "broke off after 2"),
        (head("Transfer-Encoding: chunked") + b"f" * 70_000, "truncated", "broke off"),
        (head("Content-Length: 5000") + b"x" * 5000, "too_large", "has 5000 bytes"),
        (head("Content-Length: " + "9" * 30), "too_large", "the limit is 4000"),
        (head() + b"x" * 5000, "too_large", "has more than 4000"),
        (head("Content-Encoding: gzip") + PACKED_LARGE, "too_large", "more than"),
        (head("Content-Encoding: gzip") + PACKED[:-9], "truncated", "cut short"),
        (head("Content-Encoding: gzip") + PNG, "decode", "cannot be unpacked"),
        (sized(status="404 Not Found"), "missing", "answered 404 Not Found"),
        (sized(status="500 \x1b[31m\x07Oops"), "missing", "answered 500"),
        (sized(status="401 Who?"), "permission", "answered 401"),
        (sized(status="403 Forbidden"), "permission", "answered 403"),
        (sized(status="304 Not Modified"), "missing", "answered 304"),
        (head(status="301 Moved"), "missing", "without saying where"),
        (head("Location: ftp://h/x", status="301 Moved"), "missing", "not http or https"),
        (head("Location: file:///etc/passwd", status="302 Found"), "missing", "not http"),
        (head("Location: http://[::bad", status="302 Found"), "missing", "cannot be downloaded"),
        (head("Location: http://127.0.0.1:99999/", status="302 F"), "missing", "ort"),
        (head("Location: /again", status="302 Found"), "missing", "more than 5 times"),
    ],
)  # fmt: skip
def test_what_a_server_does_wrong_is_told(answer: bytes, code: str, words: str) -> None:
    with serving(sending(answer)) as port:
        error = refusal(f"http://127.0.0.1:{port}/a", limits=Limits(max_bytes=4000))
    assert (error.code, words in str(error)) == (code, True), str(error)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/x", "refused"),
        ("http://", "names no host"),
        ("https://?", "names no host"),
        ("http:///x", "names no host"),
        ("http://a b/x", "names no host"),
        ("http://a\x00b/x", "names no host"),
        ("http://[::bad/x", "Invalid IPv6"),
        ("http://127.0.0.1:port/x", "port"),
        ("http://127.0.0.1:99999/x", "ort"),
        ("http://127.0.0.1:-1/x", "ort"),
        ("http://127.0.0.1:0/x", "cannot be downloaded"),
        (f"http://{'a' * 64}.example/x", "label"),
        ("http://a..b/x", "label"),
        ("http://\udcff/x", "cannot be downloaded"),
    ],
)
def test_urls_that_lead_nowhere_are_told(url: str, words: str) -> None:
    error = refusal(url)
    assert error.code == "missing" and words in str(error), str(error)
    with pytest.raises(ImageError):
        bytes_from_item(Sample(url))


def asked(url: str, **options) -> list[bytes]:
    """What is sent to a server at the URL, whose PORT is put in."""
    requests: list[bytes] = []
    with serving(replying(lambda _: sized(), requests)) as port:
        assert bytes_from_url(url.replace("PORT", str(port)), **options) == PNG
    return requests


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("/a b.png", b"/a%20b.png"),
        ("/a%20b.png?q=1 2&r=%41#part", b"/a%20b.png?q=1%202&r=%41"),
        ("", b"/"),
        ("?q", b"/?q"),
        ("/caf\u00e9/\udcff.png", b"/caf%C3%A9/%FF.png"),
        ("/a\x07\u2028b", b"/a%07%E2%80%A8b"),
        ('/"<>|{}', b"/%22%3C%3E%7C%7B%7D"),
        ("/x?sig=a/b+c==&list[]=1", b"/x?sig=a/b+c==&list[]=1"),
    ],
)
def test_urls_are_escaped(url: str, line: bytes) -> None:
    (request,) = asked(f"http://127.0.0.1:PORT{url}")
    assert request.startswith(b"GET " + line + b" HTTP/1.1\r\nHost: 127.0.0.1:")


def test_a_url_cannot_write_headers() -> None:
    (request,) = asked("http://127.0.0.1:PORT/a\r\nX-Evil: 1")
    assert b"\r\nX-Evil" not in request and request.startswith(b"GET /aX-Evil:%201 HTTP/1.1")


def test_credentials_of_a_url_are_sent_to_its_host_alone() -> None:
    (request,) = asked("http://us%40er:p%3Aw@127.0.0.1:PORT/")
    assert b"\r\nAuthorization: Basic dXNAZXI6cDp3\r\n" in request
    requests: list[bytes] = []
    there = moved("http://127.0.0.1:PORT/there")

    def reply(request: bytes) -> bytes:
        return sized() if b"/there" in request else there.replace(b"PORT", str(port).encode())

    with serving(replying(reply, requests)) as port:
        bytes_from_url(f"http://u:p@127.0.0.1:{port}/here")
    assert [b"Authorization" in request for request in requests] == [True, False]


def sending_slowly(first: bytes, then: bytes) -> Answer:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(first)
        for _ in range(1000):
            time.sleep(0.01)
            connection.sendall(then)

    return answer


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [
        ("http", sending_slowly(b"", b"")),
        ("http", trickling(sized(), 0.1)),
        ("http", sending_slowly(b"", head(status="100 Continue"))),
        ("http", sending_slowly(b"HTTP/1.1 200 ", b"x")),
        ("http", sending_slowly(head("Content-Length: 100"), b"")),
        ("http", sending_slowly(head(), b"x")),
        ("http", sending_slowly(head("Transfer-Encoding: chunked"), b"1\r\na\r\n")),
        ("http", sending_slowly(head("Transfer-Encoding: chunked") + b"0\r\n", b"X: y\r\n")),
        ("https", sending_slowly(b"", b"")),
        ("https", sending_slowly(b"\x16\x03\x03\x40\x00", b"\x02")),  # a TLS record
    ],
)
def test_the_deadline_is_for_the_whole_download(scheme: str, answer: Answer) -> None:
    with serving(answer) as port:
        began = time.monotonic()
        error = refusal(f"{scheme}://127.0.0.1:{port}/a.png", timeout=0.4)
        assert time.monotonic() - began < 5  # of the ten that the answer takes
    assert error.code == "timeout", error


def test_the_deadline_is_for_redirects_in_all() -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        time.sleep(0.2)
        connection.sendall(moved("/again"))

    with serving(answer) as port:
        assert refusal(f"http://127.0.0.1:{port}/", timeout=0.5).code == "timeout"


def test_the_deadline_is_for_names_too(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def slow(host, port, *rest, flags=0, **options):
        if not flags:
            time.sleep(6)
        return real(host, port, *rest, flags=flags, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    began = time.monotonic()
    assert refusal("http://slow.example/", timeout=0.3).code == "timeout"
    assert time.monotonic() - began < 4


def test_the_deadline_is_for_connecting_too() -> None:
    with socket.socket() as full:  # nobody accepts, and no more may wait
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        began = time.monotonic()
        assert refusal(f"http://127.0.0.1:{port}/", timeout=0.4).code == "timeout"
        assert time.monotonic() - began < 10  # the kernel would try for two minutes
        for one in waiting:
            one.close()


def test_the_next_address_is_tried(names: dict[str, list[list[str]]]) -> None:
    names["two.example"] = [["127.0.0.9", "127.0.0.1"]]
    with serving(sending(sized())) as port:
        assert bytes_from_url(f"http://two.example:{port}/") == PNG


def test_a_reset_is_truncated_once_the_headers_are_there() -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(head("Content-Length: 5000") + b"x" * 100)
        time.sleep(0.1)
        batch_timeout = b"\1\0\0\0\0\0\0\0"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, batch_timeout)
        connection.close()

    with serving(answer) as port:
        error = refusal(f"http://127.0.0.1:{port}/")
    assert error.code == "truncated" and "100 bytes" in str(error)


# --- redirects -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/image", "image?a b", "http://127.0.0.1:PORT/image"])
def test_redirects_are_followed_on_the_host(status: int, location: str) -> None:
    def reply(request: bytes) -> bytes:
        there = location.replace("PORT", str(port))
        return sized() if b"GET /image" in request else moved(there, f"{status} Moved")

    with serving(replying(reply, [])) as port:
        assert bytes_from_url(f"http://127.0.0.1:{port}/start") == PNG


def test_locations_are_utf8() -> None:
    there = "HTTP/1.1 302 Found\r\nLocation: /caf\u00e9 1\r\n\r\n".encode()

    def reply(request: bytes) -> bytes:
        return sized() if b"GET /caf%C3%A9%201 " in request else there

    with serving(replying(reply, [])) as port:
        assert bytes_from_url(f"http://127.0.0.1:{port}/") == PNG


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address that counts as public, at which the tests can listen all the same."""
    real = urls.is_public
    monkeypatch.setattr(downloads, "is_public", lambda ip: ip == "127.0.0.2" or real(ip))
    return "127.0.0.2"


@contextmanager
def redirecting(to: str, host: str) -> Iterator[str]:
    """The URL of a server that redirects to another, whose PORT gives an image."""
    with (
        serving(sending(sized())) as port,
        serving(sending(moved(to.replace("PORT", str(port)))), host) as first,
    ):
        yield f"http://{host}:{first}/"


@pytest.mark.parametrize(
    "to", ["http://127.0.0.1:PORT/", "http://localhost:PORT/", "http://127.1:PORT/",
           "http://2130706433:PORT/", "http://0x7f000001:PORT/", "http://[::ffff:127.0.0.1]:PORT/",
           "http://0.0.0.0:PORT/", "http://user@127.0.0.1:PORT/"],
)  # fmt: skip
def test_redirects_into_private_addresses_are_refused(to: str, public: str) -> None:
    with redirecting(to, public) as url:
        error = refusal(url)
        assert error.code == "permission" and "--allow-private-redirects" in str(error)
        assert bytes_from_url(url, private_redirects=True) == PNG


def test_a_private_url_may_redirect_to_its_own_host_alone() -> None:
    with redirecting("http://127.0.0.1:PORT/", "127.0.0.1") as url:
        assert bytes_from_url(url) == PNG  # another port of the same host
    with redirecting("http://localhost:PORT/", "127.0.0.1") as url:
        assert bytes_from_url(url) == PNG  # another name of the same address
    with redirecting("http://127.0.0.1:PORT/", "127.0.0.3") as url:
        assert refusal(url).code == "permission"
        assert bytes_from_url(url, private_redirects=True) == PNG


def test_a_name_that_changes_its_address_is_refused(
    public: str, names: dict[str, list[list[str]]]
) -> None:
    """DNS rebinding: the address that is judged is the one that is connected to."""
    names["evil.example"] = [[public], ["127.0.0.1"]]
    with serving(sending(moved("/next")), public) as port:
        assert refusal(f"http://evil.example:{port}/").code == "permission"
    assert names["evil.example"] == []


def test_a_name_with_a_public_and_a_private_address_leads_to_the_public_one(
    public: str, names: dict[str, list[list[str]]]
) -> None:
    names["both.example"] = [["127.0.0.1", public]]
    with serving(sending(sized()), public) as port:
        there = moved(f"http://both.example:{port}/")
        with serving(sending(there), public) as first:
            assert bytes_from_url(f"http://{public}:{first}/") == PNG


def test_a_private_address_beside_a_public_one_opens_no_door(
    public: str, names: dict[str, list[list[str]]]
) -> None:
    names["evil.example"] = [[public, "127.0.0.1"]]
    with redirecting("http://127.0.0.1:PORT/", public) as url:
        assert refusal(url.replace(public, "evil.example")).code == "permission"


@pytest.mark.parametrize(
    ("ip", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("64:ff9b::808:808", True),
        ("::ffff:8.8.8.8", True), ("127.0.0.1", False), ("0.0.0.0", False), ("10.1.2.3", False),
        ("172.31.0.1", False), ("192.168.0.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False),
        ("240.0.0.1", False), ("::", False), ("::1", False), ("fe80::1", False),
        ("fe80::1%2", False), ("fc00::1", False), ("ff02::1", False), ("::ffff:10.0.0.1", False),
        ("::ffff:7f00:1", False), ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False),
        ("::7f00:1", False), ("2001:db8::1", False), ("fec0::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(ip: str, public: bool) -> None:
    assert urls.is_public(ip) is public


# --- proxies and TLS -------------------------------------------------------------------------


def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[bytes] = []
    with serving(replying(lambda _: sized(), requests)) as port:
        monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{port}")
        assert bytes_from_url("http://nowhere.example/a b") == PNG
        monkeypatch.setenv("no_proxy", "nowhere.example")
        assert refusal("http://nowhere.example/a b").code == "missing"
    (request,) = requests
    assert request.startswith(
        b"GET http://nowhere.example/a%20b HTTP/1.1\r\nHost: nowhere.example\r\n"
    )
    assert b"\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n" in request


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (head(status="407 Who?"), "missing", "Tunnel connection failed: 407 Who?"),
        (head(status="502 Bad Gateway"), "missing", "Tunnel connection failed: 502"),
        (b"nonsense\r\n", "missing", "is not HTTP"),
        (head() + b"no TLS", "missing", "cannot be downloaded"),
    ],
)
def test_a_proxy_is_asked_for_a_tunnel(
    answer: bytes, code: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[bytes] = []
    with serving(replying(lambda _: answer, requests)) as port:
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{port}")
        error = refusal("https://nowhere.example/a")
    assert requests[0].startswith(b"CONNECT nowhere.example:443 HTTP/1.")
    assert error.code == code and words in str(error)


def test_a_proxy_is_no_way_to_private_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(sending(moved("http://169.254.169.254/"))) as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        assert refusal("http://nowhere.example/").code == "permission"
        assert "5 times" in str(refusal("http://nowhere.example/", private_redirects=True))


def test_other_proxies_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    assert "has to be http://" in str(refusal("http://nowhere.example/"))


def test_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tests",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(certificate, key)
    with serving(sending(sized()), tls=own) as port:
        assert "certificate" in str(refusal(f"https://127.0.0.1:{port}/"))  # signed by nobody
        trusting = ssl.create_default_context(cafile=certificate)
        monkeypatch.setattr(downloads, "_tls", lambda: trusting)
        assert bytes_from_url(f"https://127.0.0.1:{port}/") == PNG
        assert "mismatch" in str(refusal(f"https://localhost:{port}/"))
        with serving(tunnelling(port)) as proxy:
            monkeypatch.setenv("https_proxy", f"http://me:secret@127.0.0.1:{proxy}")
            assert bytes_from_url("https://127.0.0.1:1/") == PNG


def tunnelling(port: int) -> Answer:
    """A proxy that connects whoever asks for a tunnel to one port."""

    def answer(connection: socket.socket, request: bytes) -> None:
        assert request.startswith(b"CONNECT 127.0.0.1:1 ")
        assert b"\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n" in request
        connection.sendall(head())
        with socket.create_connection(("127.0.0.1", port)) as server:
            back = threading.Thread(target=copy, args=(server, connection))
            back.start()
            copy(connection, server)
            back.join()

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    return answer


# --- fuzzing ---------------------------------------------------------------------------------

_ANSWERS = (
    sized(),
    head("Transfer-Encoding: chunked") + b"10\r\n" + PNG[:16] + b"\r\n%x\r\n" % len(PNG[16:])
    + PNG[16:] + b"\r\n0\r\n\r\n",
    head("Content-Type: image/png", "Connection: keep-alive", "ETag: \"x\"") + PNG,
    head("Location: /next", "Content-Length: 0", status="302 Found"),
    head("Location: http://127.0.0.1/next", status="308 Permanent Redirect") + b"moved",
    head(status="100 Continue") + sized(),
    sized(b"<h1>no</h1>", status="404 Not Found"),
)  # fmt: skip
_BITS = (
    b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"\r\n\r\n", b"Location: //", b"Location: http://[",
    b"Content-Length: 99999999999999999999", b"Content-Length: -1", b"Transfer-Encoding: chunked",
    b"-ff\r\n", b"ffffffffffffffffffffff\r\n", b"\xff\xfe", b"HTTP/1.1 200 OK\r\n", b"x" * 70_000,
    b"X: y\r\n" * 150, b"0\r\n\r\n", b"=?utf-8?b?/w==?=", b"1_0\r\n", b" folded\r\n\tmore",
)  # fmt: skip


def mutated(data: bytes, draw: random.Random, bits: tuple[bytes, ...]) -> bytes:
    for _ in range(draw.randint(1, 4)):
        at, end = sorted(draw.choices(range(len(data) + 1), k=2))
        end = min(end, at + draw.choice((0, 1, 4, 400)))
        new = draw.choice((b"", bytes((draw.randrange(256),)), draw.choice(bits), data[at:end] * 2))
        data = data[:at] + new + data[end:]
    return data[: draw.randint(0, len(data))] if draw.random() < 0.1 else data


@pytest.mark.parametrize("inputs", [300, slow_case(10_000)])
def test_fuzzed_answers(inputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def nowhere_else(host, *rest, **options):
        if not host.startswith("127."):
            raise socket.gaierror("nothing is asked of other machines")
        return real(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", nowhere_else)
    draw = random.Random(inputs)
    current = [b""]
    limits = Limits(max_bytes=100_000)
    endings = {"image": 0}
    with serving(lambda connection, _: connection.sendall(current[0])) as port:
        for _ in range(inputs):
            current[0] = mutated(draw.choice(_ANSWERS), draw, _BITS)
            began = time.monotonic()
            try:
                assert bytes_from_url(f"http://127.0.0.1:{port}/", limits=limits, timeout=3)
                code = "image"
            except ImageError as e:
                code = e.code
                assert code in CODES, (code, current[0])
                assert "\n" not in str(e), current[0]
            endings[code] = endings.get(code, 0) + 1
            assert time.monotonic() - began < 20, current[0]
    assert min(endings.get(code, 0) for code in ("image", "missing", "truncated")) > inputs / 100
