"""An artefact that was altered is found out, and one that is whole is hashed once."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from support import ROOT, Run
from vit_engine.artefact import integrity
from vit_engine.artefact.integrity import check_integrity, check_once
from vit_engine.artefact.metadata import path_from_name, read_contract
from vit_engine.engine import Engine
from vit_engine.errors import ArtefactError


@pytest.fixture
def artefact(tiny_artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copy(tiny_artefact, tmp_path / "vit.onnx"))


def flipped(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_what_was_exported_is_whole(artefact: Path) -> None:
    contract = read_contract(artefact)
    assert contract.content_sha256
    check_integrity(artefact, contract)


def test_any_flipped_bit_is_found(artefact: Path) -> None:
    """In a weight, a node, a label: wherever it is, the file is refused before it is run."""
    whole = artefact.read_bytes()
    rng = np.random.default_rng(0)
    for position in (*rng.integers(0, len(whole), 300).tolist(), len(whole) - 1, 0):
        artefact.write_bytes(whole)
        flipped(artefact, position)
        with pytest.raises(ArtefactError):
            check_integrity(artefact, read_contract(artefact))


def test_altered_weights_are_exit_2_and_nothing_is_labelled(
    artefact: Path, tmp_path: Path, run_command: Run
) -> None:
    data = bytearray(artefact.read_bytes())
    middle = len(data) // 2
    for i in range(middle, middle + 143):
        data[i] ^= 0x40
    artefact.write_bytes(data)
    output = tmp_path / "rows.jsonl"
    ended = run_command("vit-infer", ROOT / "examples", "-m", artefact, "-o", output)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "is damaged or was altered" in line
    assert not output.exists()


def test_the_same_file_is_hashed_once(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def counted(path: Path, *given: object) -> str:
        hashed.append(path)
        return original(path, *given)

    original = integrity.content_sha256
    monkeypatch.setattr(integrity, "content_sha256", counted)
    for _ in range(3):
        Engine.open(artefact, provider="cpu").close()
    assert len(hashed) == 1
    time.sleep(0.01)  # clocks of file systems tick in milliseconds
    flipped(artefact, artefact.stat().st_size // 2)
    with pytest.raises(ArtefactError, match="damaged"):
        Engine.open(artefact, provider="cpu")


@pytest.mark.parametrize("home", ["/proc/none", "file"])
def test_without_a_cache_it_is_hashed_each_time(
    artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / home))
    contract = read_contract(artefact)
    check_once(artefact, contract)
    flipped(artefact, artefact.stat().st_size // 2)
    with pytest.raises(ArtefactError, match="damaged"):
        check_once(artefact, contract)


def test_the_bundled_artefact_is_whole() -> None:
    demo = path_from_name("demo")
    contract = read_contract(demo)
    assert contract.content_sha256
    check_integrity(demo, contract)
