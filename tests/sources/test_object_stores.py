"""Object stores fail in words, as sources and as images, and lose nothing that can be read."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

fsspec = pytest.importorskip("fsspec", reason="the ray extra is not installed")

from vit_engine.errors import ImageError, MachineError, UsageError  # noqa: E402
from vit_engine.sources.find import samples_from_sources  # noqa: E402
from vit_engine.sources.object_stores import _store, folder_from_path  # noqa: E402
from vit_engine.sources.read import bytes_from_item  # noqa: E402
from vit_engine.sources.sample import Sample  # noqa: E402


@pytest.fixture
def store() -> Iterator[Any]:
    """fsspec's store in memory, with some objects."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for name in ("a.jpg", "b/1.jpg", "b/c/2.jpg", "d/3.jpg", "e.jpg"):
        memory.pipe(f"/bucket/{name}", b"data")
    yield memory
    memory.store.clear()


def found(*sources: str, **options: Any) -> list[tuple[str, str | None]]:
    samples = samples_from_sources(sources, **options)
    return [(i.path.removeprefix("memory:///bucket/"), i.error and i.error.code) for i in samples]


def test_a_scheme_may_be_in_capitals(store: Any) -> None:
    assert found("MEMORY://bucket/e.jpg", "Memory://bucket/b") == [
        ("MEMORY://bucket/e.jpg", None), ("b/1.jpg", None), ("b/c/2.jpg", None),
    ]  # fmt: skip
    assert bytes_from_item(Sample("MEMORY://bucket/e.jpg")) == b"data"
    pytest.importorskip("s3fs")
    opened, path = _store("S3://bucket/KEY")
    assert "s3" in opened.protocol and path == "bucket/KEY"


@pytest.mark.parametrize(
    "url", ["ftp://h/x.jpg", "foo://h/x.jpg", "sftp://h/x", "github://o:r@/x", "zip://a::file://b",
            "reference://x", "s3n://x"],
)  # fmt: skip
def test_other_schemes_are_refused_with_those_that_are_supported(url: str) -> None:
    with pytest.raises(UsageError, match="is not supported; http://, https:// and s3://, ") as e:
        samples_from_sources([url])
    assert str(e.value).startswith(f"{url}: ")
    with pytest.raises(ImageError, match="is not supported") as row:
        bytes_from_item(Sample(url))
    assert row.value.code == "missing"
    with pytest.raises(UsageError, match="is not supported"):
        folder_from_path(url)


@pytest.mark.parametrize(
    ("module", "url"), [("fsspec", "s3://b/x.jpg"), ("s3fs", "s3://b/x"), ("gcsfs", "gs://b/x")]
)
def test_a_missing_package_is_named(module: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    opened = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(opened, url.partition(":")[0], raising=False)
    with pytest.raises(UsageError, match=f"{module}.*pip install .*.ray.'"):
        samples_from_sources([url])
    with pytest.raises(ImageError, match=f"{module}.*pip install .*.ray.'") as row:
        bytes_from_item(Sample(url))
    assert row.value.code == "missing"


def test_folders_need_pyarrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.fs", None)
    with pytest.raises(MachineError, match=r"needs pyarrow; .*pip install .*.ray.'"):
        folder_from_path(str(tmp_path))


def test_a_prefix_that_cannot_be_listed_is_a_row(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = type(store).ls

    def failing(self: Any, path: str, *rest: Any, **options: Any) -> Any:
        if path.strip("/") == "bucket/b":
            raise RuntimeError("the store is\nbusy")
        return real(self, path, *rest, **options)

    monkeypatch.setattr(type(store), "ls", failing)
    assert found("memory://bucket", "z.jpg") == [
        ("a.jpg", None), ("e.jpg", None), ("b/", "missing"), ("d/3.jpg", None), ("z.jpg", None),
    ]  # fmt: skip


def test_a_store_that_cannot_be_asked_is_refused_at_once(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **options: Any) -> Any:
        raise RuntimeError("no credentials\nwere found")

    for name in ("ls", "info", "glob", "isdir"):
        monkeypatch.setattr(type(store), name, failing)
    for url in ("memory://bucket", "memory://bucket/", "memory://bucket/*.jpg"):
        with pytest.raises(MachineError, match=r"cannot be listed .no credentials were found."):
            samples_from_sources(["a.jpg", url])


def test_prefixes_without_images_are_refused_at_once(store: Any) -> None:
    store.pipe("/bucket/f/x.heic", b"data")
    words = "no image below this prefix .searched by extension.; passed over: 1 HEIC"
    with pytest.raises(UsageError, match=words):
        samples_from_sources(["memory://bucket/f"])
    with pytest.raises(UsageError, match="no image below this prefix"):
        samples_from_sources(["memory://bucket/nothing/"])


def test_what_a_prefix_holds_besides_is_counted(store: Any) -> None:
    for name in ("._a.jpg", "b/.ipynb_checkpoints/1.jpg", "x.HEIC", "notes.txt"):
        store.pipe(f"/bucket/{name}", b"data")
    counts: Counter[str] = Counter()
    assert len(found("memory://bucket", skipped=counts)) == 5
    assert counts == {
        "AppleDouble": 1, "in .ipynb_checkpoints": 1, "HEIC (extra heic)": 1,
    }  # fmt: skip


def test_patterns_match_objects_alone(store: Any) -> None:
    assert found("memory://bucket/*") == [("a.jpg", None), ("e.jpg", None)]


def test_files_by_url_are_files(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"data")
    os.mkfifo(tmp_path / "b.jpg")
    first, second = samples_from_sources([f"file://{tmp_path}"])
    assert bytes_from_item(first) == b"data"
    with pytest.raises(ImageError, match="is a FIFO"):
        bytes_from_item(second)
