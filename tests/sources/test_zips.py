"""Zip files as sources: their images, whatever else is in them, and whatever is wrong with them."""

import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support import ROOT, Run
from vit_engine.errors import ImageError, UsageError
from vit_engine.sources import read
from vit_engine.sources.find import samples_from_sources
from vit_engine.sources.sample import Limits

JPEG = (ROOT / "examples/arrow-01.jpg").read_bytes()
PNG = (ROOT / "examples/bricks-01.png").read_bytes()
DEFLATED, STORED = zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED


def zipped(path: Path, files: dict[str, bytes], method: int = DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def read_all(*sources: Path, **options: Any) -> list[tuple[str, bytes | str]]:
    """The name of each member below its zip, with its bytes, or the code of its error."""
    found: list[tuple[str, bytes | str]] = []
    for one in samples_from_sources([str(source) for source in sources], **options):
        try:
            found.append((Path(one.path).name, read.bytes_from_item(one)))
        except ImageError as e:
            found.append((Path(one.path).name, e.code))
    return found


@pytest.mark.parametrize("method", [DEFLATED, STORED])
def test_images_come_with_their_bytes_in_order(method: int, tmp_path: Path) -> None:
    files = {"b/2.jpg": JPEG, "b/notes.txt": b"text", "a.PNG": PNG, "b/._2.jpg": JPEG,
             "x.heic": b"no", "empty.jpg": b""}  # fmt: skip
    path = zipped(tmp_path / "photos.ZIP", files, method)
    counts: Counter[str] = Counter()
    assert read_all(path, skipped=counts) == [
        ("2.jpg", JPEG), ("a.PNG", PNG), ("empty.jpg", "empty"),
    ]  # fmt: skip
    assert counts == {"AppleDouble": 1, "HEIC (extra heic)": 1}
    assert next(samples_from_sources([str(path)])).path == f"{path}/b/2.jpg"


def test_content_tells_with_all_files(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"one": JPEG, "text.jpg": b"text", "two": PNG})
    assert read_all(path, all_files=True) == [("one", JPEG), ("two", PNG)]


def test_a_zip_without_an_image_is_refused_alone_and_a_row_among_others(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"notes.txt": b"text", "folder/": b""})
    with pytest.raises(UsageError, match=r"x\.zip: no image in this zip .searched by extension"):
        samples_from_sources([str(path)])
    assert read_all(path, path) == [("x.zip", "empty")] * 2


def test_names_survive(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"Grüße/café.jpg": JPEG, "日本.jpg": JPEG})
    data = bytearray(path.read_bytes())
    for at in range(len(data) - 4):  # the mark of UTF-8, which some writers leave out
        if data[at : at + 4] in (b"PK\1\2", b"PK\3\4"):
            flags = at + (8 if data[at + 2] == 1 else 6)
            data[flags + 1] &= ~0x08
    for content in (path.read_bytes(), bytes(data)):
        path.write_bytes(content)
        assert read_all(path) == [("café.jpg", JPEG), ("日本.jpg", JPEG)]


def test_a_zip_behind_a_program_and_one_of_64_bits(tmp_path: Path, monkeypatch: Any) -> None:
    plain = zipped(tmp_path / "x.zip", {"a.jpg": JPEG, "b.png": PNG})
    (tmp_path / "sfx.zip").write_bytes(b"\x7fELF" + bytes(1000) + plain.read_bytes())
    assert read_all(tmp_path / "sfx.zip") == [("a.jpg", JPEG), ("b.png", PNG)]
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    wide = zipped(tmp_path / "wide.zip", {"a.jpg": JPEG, "b.png": PNG})
    assert b"PK\6\6" in wide.read_bytes()
    assert read_all(wide) == [("a.jpg", JPEG), ("b.png", PNG)]


def flag(data: bytes, *, entry: int = 0, offset: int, value: bytes) -> bytes:
    """Overwrite a field of an entry in the directory."""
    at = -1
    for _ in range(entry + 1):
        at = data.index(b"PK\1\2", at + 1)
    return data[: at + offset] + value + data[at + offset + len(value) :]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda d: flag(d, offset=8, value=b"\1\0"), "format", "is encrypted"),
        (lambda d: flag(d, offset=10, value=b"\x0c\0"), "format", "packed with bzip2"),
        (lambda d: flag(d, offset=16, value=b"abcd"), "decode", "checksum"),
        (lambda d: flag(d, offset=24, value=b"\1\0\0\0"), "decode", "more of 1 bytes"),
        (lambda d: flag(d, offset=24, value=b"\xf0\xff\xff\x7f"), "too_large", "the limit is"),
        (lambda d: flag(d, offset=42, value=b"\7\0\0\0"), "decode", "is not where"),
        (lambda d: flag(d, offset=20, value=b"\xff\xff\xff\x0f"), "truncated", "ends before"),
        (lambda d: flag(d, offset=38, value=b"\0\0\xff\xa1"), "not_regular", "symbolic link"),
    ],
)
def test_what_is_wrong_with_a_member_is_its_row_alone(
    change: Any, code: str, words: str, tmp_path: Path
) -> None:
    path = zipped(tmp_path / "x.zip", {"a.jpg": JPEG, "b.png": PNG})
    path.write_bytes(change(path.read_bytes()))
    first, second = samples_from_sources([str(path)])
    with pytest.raises(ImageError, match=words) as told:
        read.bytes_from_item(first)
    assert told.value.code == code
    assert read.bytes_from_item(second) == PNG


def test_stored_members_are_held_to_their_checksums_too(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"a.jpg": JPEG, "b.png": PNG}, STORED)
    data = bytearray(path.read_bytes())
    data[len(JPEG) // 2] ^= 1
    path.write_bytes(data)
    assert read_all(path) == [("a.jpg", "decode"), ("b.png", PNG)]


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda d: d[: len(d) // 2], [("x.zip", "truncated")]),
        (lambda d: b"no zip" * 100, [("x.zip", "format")]),
        (lambda d: b"", [("x.zip", "empty")]),
        (lambda d: d[:-10] + b"\xff\xff\xff\x7f" + d[-6:], [("x.zip", "decode")]),
        (lambda d: d[:-18] + b"\1\0\1\0" + d[-14:], [("x.zip", "format")]),  # of two volumes
        (lambda d: flag(d, entry=1, offset=0, value=b"XX"), [("a.jpg", JPEG), ("x.zip", "decode")]),
    ],
)
def test_what_is_wrong_with_the_zip_is_a_row_of_it(
    change: Any, rows: list[tuple[str, bytes | str]], tmp_path: Path
) -> None:
    path = zipped(tmp_path / "x.zip", {"a.jpg": JPEG, "b.png": PNG})
    path.write_bytes(change(path.read_bytes()))
    assert read_all(path) == rows


@pytest.mark.parametrize("wide", [False, True])
def test_damage_of_any_kind_is_told(wide: bool, tmp_path: Path, monkeypatch: Any) -> None:
    """Each byte of the headers changed: rows or a refusal, never another exception."""
    if wide:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    whole = zipped(tmp_path / "x.zip", {"a.jpg": b"a" * 50, "b.jpg": b"b" * 50}).read_bytes()
    for at in range(len(whole)):
        for value in (0, 0x7F, 0xFF):
            path = tmp_path / "y.zip"
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            assert len(read_all(path, path)) >= 2


def test_a_bomb_is_unpacked_no_further(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"a.jpg": bytes(10**6)})
    (bomb,) = samples_from_sources([str(path)])
    assert bomb.span is not None
    with pytest.raises(ImageError, match="has 1000000 bytes, the limit is 1000"):
        read.bytes_from_item(bomb, limits=Limits(max_bytes=1000))


def test_vit_infer_labels_a_zip(run_command: Run, tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"arrow-1.jpg": JPEG, "bricks-1.png": PNG})
    done = run_command("vit-infer", "-m", "demo", "--provider", "cpu", path, "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert [line.split(",")[1] for line in done.stdout.splitlines()[1:]] == ["arrow", "bricks"]
