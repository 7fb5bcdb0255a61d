"""What a user names becomes the same images in the same order every time, and nothing is lost."""

import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from vit_engine.errors import ImageError, UsageError, printable
from vit_engine.images.decode import image_from_item
from vit_engine.sources.downloads import bytes_from_url
from vit_engine.sources.find import items_from_sources
from vit_engine.sources.item import Item, Limits
from vit_engine.sources.read import bytes_from_item

_FILE = io.BytesIO()
Image.new("RGB", (9, 7), "teal").save(_FILE, "PNG")
PNG = _FILE.getvalue()


def paths(*sources, **options) -> list[str]:
    return [item.path for item in items_from_sources(sources, **options)]


def below(folder: Path, *sources, **options) -> list[str]:
    return [p.removeprefix(f"{folder}/") for p in paths(*sources, **options)]


@pytest.fixture
def tree(tmp_path) -> Path:
    for name in ("b.jpg", "a/2.PNG", "a/10.webp", "a/deep/x.tiff", ".h/y.gif", "c.txt", "a.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "none").mkdir()
    return tmp_path


def test_a_folder_is_searched_by_extension_in_order(tree):
    expected = [".h/y.gif", "a.jpeg", "a/10.webp", "a/2.PNG", "a/deep/x.tiff", "b.jpg"]
    assert below(tree, str(tree)) == below(tree, f"{tree}/") == expected


def test_all_files_are_searched_by_content(tree):
    (tree / "a/2.PNG").write_bytes(b"text")
    (tree / "empty.jpg").touch()
    os.mkfifo(tree / "fifo.jpg")
    assert below(tree, str(tree), all_files=True) == [
        ".h/y.gif", "a.jpeg", "a/10.webp", "a/deep/x.tiff", "b.jpg", "c.txt",
    ]  # fmt: skip


def test_files_are_taken_as_named_even_when_absent(tree):
    named = ["absent.jpg", str(tree / "c.txt"), "./x", "weird[1]*.jpg"]
    (tree / "weird[1]*.jpg").touch()
    old = Path.cwd()
    os.chdir(tree)
    try:
        assert paths(*named) == named
    finally:
        os.chdir(old)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jp*g", ["a.jpeg", "b.jpg"]),
        ("a/*", ["a/10.webp", "a/2.PNG"]),
        ("*/*.PNG", ["a/2.PNG"]),
        ("**/*.tiff", ["a/deep/x.tiff"]),
        ("**/?*.[jt]*", ["a.jpeg", "a/deep/x.tiff", "b.jpg", "c.txt"]),
        ("a/**/x.tiff", ["a/deep/x.tiff"]),
        (".h/*", [".h/y.gif"]),
    ],
)
def test_globs_give_files_in_order(tree, pattern, expected, monkeypatch):
    assert sorted(below(tree, f"{tree}/{pattern}")) == sorted(expected)
    assert below(tree, f"{tree}/{pattern}") == below(tree, f"{tree}/{pattern}")
    monkeypatch.chdir(tree)
    assert sorted(paths(pattern)) == sorted(expected)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("none", "no image in this folder"),
        ("*.nothing", "no file matches this pattern"),
        ("**/*.nothing", "no file matches this pattern"),
    ],
)
def test_folders_without_images_and_vain_globs_are_refused_at_once(tree, source, words):
    with pytest.raises(UsageError, match=words):
        items_from_sources([str(tree / "b.jpg"), str(tree / source)])


def test_no_source_and_stdin_twice_are_refused():
    with pytest.raises(UsageError, match="no source given"):
        items_from_sources([])
    with pytest.raises(UsageError, match="twice"):
        items_from_sources(["-", "-"])


def test_links_to_folders_are_followed_on_demand_and_loops_end(tree):
    (tree / "a/loop").symlink_to("..")
    (tree / "a/file.jpg").symlink_to("../b.jpg")
    (tree / "a/broken.jpg").symlink_to("absent")
    (tree / "a/self.jpg").symlink_to("self.jpg")
    without = below(tree, str(tree / "a"))
    assert without == [
        "a/10.webp", "a/2.PNG", "a/broken.jpg", "a/deep/x.tiff", "a/file.jpg", "a/self.jpg",
    ]  # fmt: skip
    followed = below(tree, str(tree / "a"), follow_links=True)
    assert set(followed) == {*without, "a/loop/.h/y.gif", "a/loop/a.jpeg", "a/loop/b.jpg"}
    assert len(followed) == len(set(followed))


def test_a_very_deep_tree_is_searched(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):  # deeper than Python's stack, within PATH_MAX
        os.mkdir("d", dir_fd=here)
        here, old = os.open("d", os.O_RDONLY, dir_fd=here), here
        os.close(old)
    os.close(os.open("x.png", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    (found,) = paths(str(tmp_path))
    # Python's own clean-up of the folder would recurse as deep.
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)
    assert found.endswith("/d/d/x.png")


def test_a_folder_that_cannot_be_listed_is_a_row():
    code = """if True:
        import os, sys
        from vit_engine.sources.find import items_from_sources
        if os.getuid() == 0:
            os.setuid(65534)
        for item in items_from_sources(sys.argv[1:]):
            print(item.path.removeprefix(sys.argv[1]), item.error and item.error.code)
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        Path(folder, "shut").mkdir(mode=0)
        Path(folder, "z.png").write_bytes(PNG)
        done = subprocess.run(
            [sys.executable, "-c", code, folder],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    assert done.stdout == "/shut/ permission\n/z.png None\n"


def stdin_of(data: bytes):
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    return os.fdopen(read, "rb")


def test_a_list_on_stdin():
    with stdin_of(b"a.jpg\n\nb c.png\r\nhttp://h/x\ncaf\xe9.jpg\nlast") as stdin:
        found = paths("-", stdin=stdin)
    assert found == ["a.jpg", "b c.png", "http://h/x", os.fsdecode(b"caf\xe9.jpg"), "last"]


def test_a_nul_separated_list_on_stdin():
    with stdin_of(b"a\nb.jpg\0c\r\0") as stdin:
        assert paths("-", stdin=stdin, null=True) == ["a\nb.jpg", "c\r"]
    with stdin_of(b"a.jpg\0b.jpg\0") as stdin, pytest.raises(UsageError, match="-0"):
        paths("-", stdin=stdin)


def test_a_list_on_stdin_streams():
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stdin, os.fdopen(write, "wb", buffering=0) as out:
        out.write(b"first.jpg\nsec")
        items = items_from_sources(["-"], stdin=stdin)
        assert next(items).path == "first.jpg"
        out.write(b"ond.jpg\n")
        assert next(items).path == "second.jpg"


def test_names_that_are_not_utf8_survive(tmp_path):
    name = os.fsdecode(b"caf\xe9 \xff.png")
    (tmp_path / name).write_bytes(PNG)
    (item,) = items_from_sources([str(tmp_path)])
    assert os.fsencode(item.path).endswith(b"/caf\xe9 \xff.png")
    assert image_from_item(item).size == (9, 7)
    assert printable(item.path).endswith("/caf\\xe9 \\xff.png")
    assert printable("a\nb\x1b[31m") == "a\\nb\\x1b[31m"


def test_items_hold_bytes_or_an_error():
    assert image_from_item(Item("shard.tar/1.png", data=PNG)).size == (9, 7)
    with pytest.raises(ImageError, match="cannot be listed"):
        bytes_from_item(Item("x", error=ImageError("permission", "cannot be listed")))


def test_the_first_image_comes_before_the_walk_ends(tmp_path):
    for i in range(200):
        (tmp_path / f"{i:03}").mkdir()
        (tmp_path / f"{i:03}/x.png").write_bytes(PNG)
    items = items_from_sources([str(tmp_path)])
    assert next(items).path.endswith("/000/x.png")
    (tmp_path / "199/new.png").write_bytes(PNG)
    assert [i.path for i in items][-2].endswith("/199/new.png")


class _Server(BaseHTTPRequestHandler):
    def do_GET(self):
        kind = self.path.strip("/")
        if kind in ("301", "ftp", "loop"):
            self.send_response(301)
            targets = {"301": "/image", "ftp": "ftp://127.0.0.1/x", "loop": "/loop"}
            self.send_header("Location", targets[kind])
            self.end_headers()
            return
        if kind.isdigit():
            self.send_error(int(kind))
            return
        body = {"image": PNG, "cut": PNG[:20], "empty": b"", "big": b"x" * 5000}.get(kind, PNG)
        self.send_response(200)
        if kind != "unsized":
            self.send_header("Content-Length", str(len(PNG) if kind == "cut" else len(body)))
        self.end_headers()
        if kind == "slow":
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
        elif kind == "hung":
            time.sleep(1)
        else:
            self.wfile.write(b"x" * 5000 if kind == "unsized" else body)

    def log_message(self, *args):
        pass


@contextmanager
def loopback():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_urls_are_downloaded(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with loopback() as url:
        for path in ("image", "301"):
            (item,) = items_from_sources([f"{url}/{path}"])
            assert bytes_from_item(item) == PNG


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("404", "missing"), ("500", "missing"), ("403", "permission"), ("loop", "missing"),
        ("ftp", "missing"), ("cut", "truncated"), ("empty", "empty"), ("big", "too_large"),
        ("unsized", "too_large"), ("slow", "timeout"), ("hung", "timeout"),
    ],
)  # fmt: skip
def test_downloads_that_fail_have_their_code(path, code, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    seconds = 0.4 if code == "timeout" else 30.0
    with loopback() as url, pytest.raises(ImageError) as refusal:
        bytes_from_url(f"{url}/{path}", limits=Limits(max_bytes=4000), timeout=seconds)
    assert refusal.value.code == code


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://", "http://[::bad/x", "https://?"])
def test_urls_that_lead_nowhere_are_missing(url, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(ImageError) as refusal:
        bytes_from_item(Item(url))
    assert refusal.value.code == "missing"
