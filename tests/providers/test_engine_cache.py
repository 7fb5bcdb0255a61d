"""Where engines are kept: used as they were built or not at all, and done without in words."""

import multiprocessing
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import children, largest_file, wait_until
from vit_engine.errors import ProviderError
from vit_engine.machine.atomic import write_whole
from vit_engine.providers import engine_cache
from vit_engine.providers.engine_cache import SEAL, EngineCache, kept

NOBODY = 65534
ROOT_ALONE = pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become another user")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def built() -> EngineCache:
    """A cache that holds what a build would leave."""
    found = EngineCache.of({"artefact": "a"})
    (found.folder / "model.engine").write_bytes(b"code")
    (found.folder / "model.profile").write_bytes(b"shapes")
    (found.folder / "kernels.timing").write_bytes(b"times")
    found.commit()
    return found


def test_folders_are_for_their_user_alone(built: EngineCache) -> None:
    for folder in (built.folder, engine_cache.root(), engine_cache.root().parent):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_engines_are_used_as_they_were_built_or_not_at_all(
    built: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    assert built.is_valid()
    (built.folder / "kernels.timing").write_bytes(b"better times")
    assert built.is_valid()
    engine = built.folder / "model.engine"
    for damage in (b"", b"cod", b"other code"):
        engine.write_bytes(damage)
        assert not built.is_valid()
        assert "is damaged; building it again" in caplog.text
    engine.write_bytes(b"code")
    assert built.is_valid()
    (built.folder / "planted.engine").write_bytes(b"more code")
    assert not built.is_valid()
    built.clear()
    assert not list(built.folder.iterdir())
    assert built.folder.stat().st_mode & 0o777 == 0o700


def test_a_build_that_was_interrupted_counts_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    found = EngineCache.of({"artefact": "a"})
    (found.folder / "model.engine").write_bytes(b"half of it")
    assert not found.is_valid()
    assert not caplog.text  # nothing to tell: it was never finished
    found.clear()
    with pytest.raises(ProviderError, match="stored no engine"):
        found.commit()


def test_two_processes_do_not_build_at_once(caplog: pytest.LogCaptureFixture) -> None:
    context = multiprocessing.get_context("spawn")
    held, released = context.Event(), context.Event()
    other = context.Process(target=children.hold_cache, args=(held, released))
    other.start()
    assert held.wait(60)
    words = "waiting for another process that is building this TensorRT engine"

    def release() -> None:
        wait_until(lambda: words in caplog.text)
        released.set()

    releasing = threading.Thread(target=release)
    releasing.start()
    with EngineCache.of({"artefact": "a"}).locked():
        assert words in caplog.text
        assert released.is_set()
    releasing.join()
    other.join(60)
    assert other.exitcode == 0


def engine_of(parts: list[str], *, loads: bool = True) -> bytes:
    """Return the engine of a key as a provider asks for it; `parts` tells how it was come by."""

    def loaded(folder: Path) -> bytes:
        parts.append("loaded")
        if not loads:
            raise ProviderError("another version")
        return (folder / "model.engine").read_bytes()

    def built(folder: Path | None) -> bytes:
        parts.append("built")
        if folder:
            write_whole(folder / "model.engine", b"code")
        return b"code"

    return kept({"artefact": "a"}, "OpenVINO", loaded=loaded, built=built)


def in_its_place(path: Path) -> None:
    """Put a folder where a file is."""
    path.unlink()
    path.mkdir()


def a_link(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


Spoil = Callable[[Path], object]

UNUSABLE: dict[str, tuple[Spoil, str]] = {
    "a folder for a lock": (lambda d: in_its_place(d.with_suffix(".lock")), "Is a directory"),
    "a file for the folder": (a_file, "File exists"),
    "a file for the cache": (lambda d: a_file(d.parents[2]), "Not a directory"),
    "a link for the folder": (a_link, "others can write .* chmod 700 it"),
    "writable by a group": (lambda d: d.chmod(0o720), "others can write .* chmod 700 it"),
    "writable by all": (lambda d: d.parent.chmod(0o1777), "others can write .* chmod 700 it"),
    "above": (lambda d: d.parents[1].chmod(0o777), "others can write .* chmod 700 it"),
}

DAMAGED: dict[str, Spoil] = {
    "an engine of other bytes": lambda d: (d / "model.engine").write_bytes(b"cod"),
    "an engine that is gone": lambda d: (d / "model.engine").unlink(),
    "a folder for an engine": lambda d: in_its_place(d / "model.engine"),
    "one engine more": lambda d: (d / "planted.engine").write_bytes(b"more code"),
    "a folder beside it": lambda d: (d / "planted").mkdir(),
    "a broken link beside it": lambda d: (d / "planted").symlink_to("nowhere"),
    "a folder for a seal": lambda d: in_its_place(d / SEAL),
    "half a seal": lambda d: (d / SEAL).write_text((d / SEAL).read_text()[:-5]),
    "another key": lambda d: (d / SEAL).write_text((d / SEAL).read_text().replace('"a"', '"b"')),
    "no JSON": lambda d: (d / SEAL).write_bytes(b"\xff\xfe"),
    "deep JSON": lambda d: (d / SEAL).write_text("[" * 100_000),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_without_a_cache_an_engine_is_built_with_one_warning(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil, words = UNUSABLE[case]
    parts: list[str] = []
    engine_of(parts)
    (seal,) = engine_cache.root("OpenVINO").glob(f"*/{SEAL}")
    spoil(seal.parent)
    for _ in range(2):
        caplog.clear()
        assert engine_of(parts) == b"code"
        (record,) = caplog.records
        assert re.search(words, record.message)
        assert "set XDG_CACHE_HOME; until then each start builds" in record.message
    assert parts == ["built"] * 3


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_engine_is_built_again_once(case: str, caplog: pytest.LogCaptureFixture) -> None:
    parts: list[str] = []
    engine_of(parts)
    (seal,) = engine_cache.root("OpenVINO").glob(f"*/{SEAL}")
    DAMAGED[case](seal.parent)
    for _ in range(2):
        assert engine_of(parts) == b"code"
    (record,) = caplog.records
    assert "the stored OpenVINO engine is damaged; building it again" in record.message
    assert parts == ["built", "built", "loaded"]


def test_an_engine_that_does_not_load_is_built_again(caplog: pytest.LogCaptureFixture) -> None:
    parts: list[str] = []
    for loads in (True, False, True):
        assert engine_of(parts, loads=loads) == b"code"
    assert "does not load (another version); building it again" in caplog.text
    assert parts == ["built", "loaded", "built", "loaded"]


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a user whom permissions bind, who we are meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        monkeypatch.setenv("XDG_CACHE_HOME", folder)
        os.seteuid(NOBODY)
        yield Path(folder)
        os.seteuid(0)


@ROOT_ALONE
def test_a_read_only_cache_is_read(user: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts: list[str] = []
    engine_of(parts)
    for path in sorted(user.rglob("*"), reverse=True):
        path.chmod(0o500 if path.is_dir() else 0o400)
    assert engine_of(parts) == b"code"
    assert not caplog.text
    (lock,) = user.rglob("*.lock")
    lock.chmod(0)
    assert engine_of(parts) == b"code"
    (record,) = caplog.records
    assert "Permission denied" in record.message
    assert parts == ["built", "loaded", "built"]
    for path in user.rglob("*"):
        path.chmod(0o700)


@ROOT_ALONE
def test_a_cache_of_another_user_is_left_alone(
    user: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts: list[str] = []
    engine_of(parts)
    os.seteuid(0)
    assert engine_of(parts) == b"code"
    (record,) = caplog.records
    assert f"others can write to this cache of executable code (owner {NOBODY}" in record.message
    assert parts == ["built", "built"]


@pytest.mark.parametrize("room", [2, 50])
def test_a_full_disk_keeps_nothing(room: int, caplog: pytest.LogCaptureFixture) -> None:
    """There is no room for the engine, or for its seal."""
    parts: list[str] = []
    with largest_file(room):
        assert engine_of(parts) == b"code"
    (record,) = caplog.records
    assert "the OpenVINO engine is not kept" in record.message
    assert "cannot be written" in record.message
    parts.clear()
    for _ in range(2):
        assert engine_of(parts) == b"code"
    assert parts == ["built", "loaded"]
