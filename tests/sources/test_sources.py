"""What a user names becomes the same images in the same order every time, and nothing is lost."""

import base64
import contextlib
import io
import os
import random
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import Image

from support import slow_case
from vit_engine.errors import ImageError, UsageError
from vit_engine.images.decode import image_from_item
from vit_engine.sources.find import samples_from_sources
from vit_engine.sources.read import bytes_from_item
from vit_engine.sources.sample import Sample
from vit_engine.sources.tables.paths import LONGEST

_FILE = io.BytesIO()
Image.new("RGB", (9, 7), "teal").save(_FILE, "PNG")
PNG = _FILE.getvalue()


def paths(*sources, **options) -> list[str]:
    return [item.path for item in samples_from_sources(sources, **options)]


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


def test_no_source_and_stdin_twice_are_refused():
    with pytest.raises(UsageError, match="no images given"):
        samples_from_sources([])
    with pytest.raises(UsageError, match="twice"):
        samples_from_sources(["-", "-"])


@contextmanager
def stdin_of(data: bytes) -> Iterator[BinaryIO]:
    """A pipe that the data comes through, while it is read."""
    read, write = os.pipe()

    def work() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(write, "wb") as out:
            out.write(data)

    writer = threading.Thread(target=work)
    writer.start()
    with os.fdopen(read, "rb") as stdin:
        yield stdin
    writer.join()


def listed(data: bytes, **options) -> list[tuple[str, str | None]]:
    with stdin_of(data) as stdin:
        samples = list(samples_from_sources(["-"], stdin=stdin, **options))
    return [(item.path, item.error and item.error.code) for item in samples]


def test_a_list_on_stdin():
    with stdin_of(b"a.jpg\n\nb c.png\r\nhttp://h/x\ncaf\xe9.jpg\nlast") as stdin:
        found = paths("-", stdin=stdin)
    assert found == ["a.jpg", "b c.png", "http://h/x", os.fsdecode(b"caf\xe9.jpg"), "last"]


def test_a_nul_separated_list_on_stdin():
    assert listed(b"a\nb.jpg\0c\r\0\0", null=True) == [("a\nb.jpg", None), ("c\r", None)]
    assert listed(b"\xef\xbb\xbfa\0", null=True) == [("\ufeffa", None)]  # as find writes it


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a.jpg\0b.jpg\0", "NUL-separated; add -0"),
        (b"a.jpg\0b.jpg\n", "NUL-separated; add -0"),
        ("a.jpg\n".encode("utf-16"), "UTF-16"),
        ("\ufeffa.jpg\r\n".encode("utf-16-be"), "UTF-16"),
    ],
)
def test_a_list_of_another_kind_is_refused_with_its_first_line(data, words):
    with pytest.raises(UsageError, match=words):
        listed(data)


def test_a_list_may_have_a_byte_order_mark_and_dos_lines():
    assert listed(b"\xef\xbb\xbfa.jpg\r\nb.jpg\r\n\r\n") == [("a.jpg", None), ("b.jpg", None)]
    assert listed(b"\xef\xbb\xbf") == []
    assert listed(b"a\n\xef\xbb\xbfb\n") == [("a", None), ("\ufeffb", None)]
    assert listed(b"a\rb\n") == [("a\rb", None)]  # no end of a line on Linux


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        (b"data:image/png;base64," + base64.b64encode(PNG), PNG),
        (b"Data:;charset=x;BASE64," + base64.b64encode(PNG).replace(b"=", b"%3D"), PNG),
        (b"data:image/png;base64," + base64.b64encode(PNG * 900), PNG * 900),
        (b"data:,a%20b", b"a b"),
        (b"data:image/png;base64,a", "decode"),
        (b"data:image/png;base64", "decode"),
        (b"data:," + b"x" * 2**24, "too_large"),
    ],
)
def test_data_uris_are_images(uri, found, tmp_path):
    table = tmp_path / "t.csv"
    wrapped = uri.replace(b",iV", b",\r\niV\r\n")
    table.write_bytes(b'path\r\n"' + wrapped + b'"\r\n')
    with stdin_of(b"a.jpg\n" + uri + b"\n") as stdin:
        lists = list(samples_from_sources(["-"], stdin=stdin))[1:]
    cells = list(samples_from_sources([str(table)])) if len(uri) < 2**17 else []
    for item, path in zip([*lists, *cells], ("-:2", f"{table}:1"), strict=False):
        assert item.path == path
        assert (item.error.code if item.error else item.data) == found


def test_lines_that_are_no_names_are_rows():
    long = b"x" * LONGEST
    data = b"first\n" + b"y" * 17_000_000 + b"\na\0b\n" + long + b"\n" + long + b"x\nlast"
    assert listed(data) == [
        ("first", None), ("-:2", "too_large"), ("-:3", "missing"), (long.decode(), None),
        ("-:5", "too_large"), ("last", None),
    ]  # fmt: skip


def test_a_line_of_any_length_takes_little_memory():
    with stdin_of(b"y" * 50_000_000 + b"\na\n") as stdin:
        tracemalloc.start()
        found = list(samples_from_sources(["-"], stdin=stdin))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert [item.path for item in found] == ["-:1", "a"]
    assert most < 2_000_000


def test_stdin_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with os.fdopen(os.dup(0), "rb") as stdin:
        os.dup2(descriptor, stdin.fileno())
        with pytest.raises(UsageError, match="Is a directory"):
            list(samples_from_sources(["-"], stdin=stdin))
    os.close(descriptor)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="stdin is closed"):
        samples_from_sources(["-"])


def test_a_list_that_breaks_off_is_a_row(monkeypatch):
    real, calls = os.read, []

    def failing(descriptor, size):
        calls.append(size)
        if len(calls) > 1:
            raise OSError(5, "Input/output error")
        return real(descriptor, size)

    with stdin_of(b"a\nb\nc") as stdin:
        samples = samples_from_sources(["-", "z"], stdin=stdin)
        monkeypatch.setattr(os, "read", failing)
        found = [(item.path, item.error and item.error.code) for item in samples]
    assert found == [("a", None), ("b", None), ("-:3", "truncated"), ("z", None)]


def test_stdin_that_does_not_block_is_waited_for():
    read, write = os.pipe()
    os.set_blocking(read, False)
    with os.fdopen(read, "rb", buffering=0) as stdin:
        timer = threading.Timer(0.1, lambda: [os.write(write, b"a\nb"), os.close(write)])
        timer.start()
        assert [i.path for i in samples_from_sources(["-"], stdin=stdin)] == ["a", "b"]
        timer.join()


@pytest.mark.parametrize("inputs", [300, slow_case(10_000)])
def test_fuzzed_lists(inputs):
    """Each line is a row in its place, whatever the others hold."""
    draw = random.Random(inputs)
    bits = [b"a.jpg", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b" ", b"\t", b"", b"x" * 70_000, b"/"]
    for _ in range(inputs):
        null = draw.random() < 0.3
        end = b"\0" if null else b"\n"
        names = [b"".join(draw.choices(bits, k=draw.randint(0, 3))) for _ in range(20)]
        names = [b"first", *(name.replace(end, b"") for name in names)]
        expected = []
        for number, name in enumerate(names, 1):
            name = name if null else name.removesuffix(b"\r")  # noqa: PLW2901
            if len(name) > LONGEST:
                expected.append((f"-:{number}", "too_large"))
            elif b"\0" in name:
                expected.append((f"-:{number}", "missing"))
            elif name:
                expected.append((os.fsdecode(name), None))
        last = end if draw.random() < 0.5 else b""
        assert listed(end.join(names) + last, null=null) == expected


def test_a_list_on_stdin_streams():
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stdin, os.fdopen(write, "wb", buffering=0) as out:
        out.write(b"first.jpg\nsec")
        samples = samples_from_sources(["-"], stdin=stdin)
        assert next(samples).path == "first.jpg"
        out.write(b"ond.jpg\n")
        assert next(samples).path == "second.jpg"


def test_items_hold_bytes_or_an_error():
    assert image_from_item(Sample("shard.tar/1.png", data=PNG)).size == (9, 7)
    with pytest.raises(ImageError, match="cannot be listed"):
        bytes_from_item(Sample("x", error=ImageError("permission", "cannot be listed")))


def test_the_first_image_comes_before_the_walk_ends(tmp_path):
    for i in range(200):
        (tmp_path / f"{i:03}").mkdir()
        (tmp_path / f"{i:03}/x.png").write_bytes(PNG)
    samples = samples_from_sources([str(tmp_path)])
    assert next(samples).path.endswith("/000/x.png")
    (tmp_path / "199/new.png").write_bytes(PNG)
    assert [i.path for i in samples][-2].endswith("/199/new.png")
