"""An artefact that was altered is found out before it is run."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from support import ROOT, Run
from vit_engine.artefact.integrity import check_integrity
from vit_engine.artefact.metadata import path_from_name, read_contract
from vit_engine.errors import ArtefactError


@pytest.fixture
def artefact(tiny_artefact: Path, tmp_path: Path) -> Path:
    """A copy."""
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


def test_the_bundled_artefact_is_whole() -> None:
    demo = path_from_name("demo")
    contract = read_contract(demo)
    assert contract.content_sha256
    check_integrity(demo, contract)
