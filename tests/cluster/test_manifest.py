"""Manifests of local folders and of object stores, without a cluster."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pa = pytest.importorskip("pyarrow", reason="the ray extra is not installed")
fsspec = pytest.importorskip("fsspec", reason="the ray extra is not installed")

import pyarrow.parquet as pq  # noqa: E402

from vit_engine.cluster import manifest  # noqa: E402
from vit_engine.errors import ImageError, UsageError  # noqa: E402
from vit_engine.sources.find import samples_from_sources  # noqa: E402
from vit_engine.sources.object_stores import bytes_from_store, folder_from_path  # noqa: E402
from vit_engine.sources.sample import Limits, Sample  # noqa: E402


@pytest.fixture
def store() -> Iterator[Any]:
    """fsspec's store in memory, empty."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


def read(folder: Path) -> Any:
    return pq.read_table(folder)


def test_items_survive_the_round_trip(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in (b"a.png", b"b\xff.png", "c\u00e9.png".encode()):
        path = os.fsencode(tmp_path / "images") + b"/" + name
        with open(path, "wb") as file:  # noqa: PTH123  bytes
            Image.new("RGB", (4, 4)).save(file, "PNG")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(tmp_path / "images/a.png", "a.png")
    sources = [str(tmp_path / "images"), str(tmp_path / "shard.tar"), str(tmp_path / "gone.png")]
    samples = list(samples_from_sources(sources))
    samples.append(Sample("closed/", error=ImageError("permission", "cannot be listed: denied")))
    total = manifest.write(samples, folder_from_path(str(tmp_path / "manifest")))
    table = read(tmp_path / "manifest")
    assert total == len(samples) == table.num_rows == 6
    assert table["row_id"].to_pylist() == list(range(6))
    assert table.schema.field("row_id").type == pa.int64()
    found = manifest.items_from_table(table)
    assert [(i.path, i.span) for i in found] == [(i.path, i.span) for i in samples]
    assert found[3].span is not None
    assert found[-1].error is not None
    assert (found[-1].error.code, str(found[-1].error)) == (
        "permission",
        "cannot be listed: denied",
    )


def test_files_are_cut_by_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "ROWS_A_FILE", 10)
    samples = (Sample(f"{i}.jpg") for i in range(25))
    assert manifest.write(samples, folder_from_path(str(tmp_path / "m"))) == 25
    files = sorted((tmp_path / "m").iterdir())
    assert [pq.read_metadata(f).num_rows for f in files] == [10, 10, 5]
    assert manifest.count(folder_from_path(str(tmp_path / "m"))) == 25
    assert read(tmp_path / "m")["row_id"].to_pylist() == list(range(25))


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    item = Sample("shard.tar.gz/a.jpg", b"...")
    with pytest.raises(UsageError, match="unpack it to use --ray"):
        manifest.write([item], folder_from_path(str(tmp_path)))


def test_a_manifest_is_told_from_a_column_of_paths(tmp_path: Path) -> None:
    def written(**columns: Any) -> list[str]:
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")
        return [str(tmp_path / "x.parquet")]

    ids = pa.array([0], pa.int64())
    assert manifest.of_sources(written(row_id=ids, path=["a"])) is not None
    assert manifest.of_sources(written(path=["a"])) is None
    assert manifest.of_sources([str(tmp_path)]) is None
    with pytest.raises(UsageError, match="row_id is int32"):
        manifest.of_sources(written(row_id=pa.array([0], pa.int32()), path=["a"]))
    with pytest.raises(UsageError, match="int64 row_id and string path"):
        manifest.of_sources(written(row_id=ids, file=["a"]))
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        manifest.of_sources([str(tmp_path / "x.parquet")])


def test_stores_are_searched_in_order(store: Any, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "local.png")
    for name in ("b/2.jpg", "b/1.JPG", "b/x.txt", "a.png", "c/d/3.webp"):
        store.pipe(f"/bucket/{name}", b"data")
    local = str(tmp_path / "local.png")
    found = [i.path for i in samples_from_sources(["memory://bucket", local, "memory://one.jpg"])]
    assert found == [
        "memory:///bucket/a.png",
        "memory:///bucket/b/1.JPG",
        "memory:///bucket/b/2.jpg",
        "memory:///bucket/c/d/3.webp",
        local,
        "memory://one.jpg",
    ]
    globbed = [i.path for i in samples_from_sources(["memory://bucket/b/*.jpg"])]
    assert globbed == ["memory:///bucket/b/2.jpg"]
    with pytest.raises(UsageError, match="no object matches"):
        samples_from_sources(["memory://bucket/*.gif"])
    with pytest.raises(UsageError, match="no image below"):
        list(samples_from_sources(["memory://bucket/nothing/"]))


def test_objects_are_read_under_limits(store: Any) -> None:
    store.pipe("/bucket/1.jpg", b"12345")
    store.pipe("/bucket/0.jpg", b"")
    assert bytes_from_store("memory://bucket/1.jpg") == b"12345"
    for name, limits, code in (
        ("1.jpg", Limits(max_bytes=4), "too_large"),
        ("0.jpg", Limits(), "empty"),
        ("2.jpg", Limits(), "missing"),
    ):
        with pytest.raises(ImageError) as e:
            bytes_from_store(f"memory://bucket/{name}", limits=limits)
        assert e.value.code == code


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(UsageError, match="nowhere://x"):
        samples_from_sources(["nowhere://x/y.jpg"])
    with pytest.raises(UsageError, match="nowhere://x"):
        folder_from_path("nowhere://x")


def test_one_machine_imports_nothing_of_it(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    code = (
        "import sys; from vit_engine.commands import infer; "
        f"sys.argv = ['vit-infer', {str(tmp_path)!r}, '-m', 'demo', '--provider', 'cpu', '-q']; "
        "assert infer.main() == 0; "
        "assert not {'ray', 'pyarrow', 'fsspec'} & set(sys.modules), set(sys.modules)"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
