"""What a user is told to type for an extra, in each way in which the package can be installed."""

import json
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support import ROOT
from vit_engine.machine import installation
from vit_engine.machine.installation import WHEEL, pip_install


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Have the package installed from where pip says in direct_url.json; None: it says nothing."""

    def install(origin: dict[str, Any] | None) -> None:
        text = None if origin is None else json.dumps(origin)
        found = SimpleNamespace(read_text={"direct_url.json": text}.get)
        monkeypatch.setattr(metadata, "distribution", {"vit-engine": found}.__getitem__)
        monkeypatch.setattr(shutil, "which", {"python": sys.executable}.get)

    return install


def test_an_editable_clone_is_named_and_stays_editable(installed, tmp_path: Path) -> None:
    clone = tmp_path / "a clone"
    clone.mkdir()
    installed({"url": clone.as_uri(), "dir_info": {"editable": True}})
    assert pip_install("ray") == f"python -m pip install --editable '{clone}[ray]'"


def test_a_clone_is_named(installed, tmp_path: Path) -> None:
    installed({"url": tmp_path.as_uri(), "dir_info": {}})
    assert pip_install("gpu", "--force-reinstall") == (
        f"python -m pip install --force-reinstall '{tmp_path}[gpu]'"
    )


def test_a_wheel_is_named_while_it_is_there(installed, tmp_path: Path) -> None:
    wheel = tmp_path / "vit_engine-0.2.0-py3-none-any.whl"
    wheel.touch()
    installed({"url": wheel.as_uri(), "archive_info": {}})
    assert pip_install("cpu") == f"python -m pip install '{wheel}[cpu]'"
    wheel.unlink()
    assert pip_install("cpu") == f"python -m pip install '{WHEEL}[cpu]'"


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ({"url": "https://h/vit.whl", "archive_info": {}}, "https://h/vit.whl"),
        ({"url": "https://h/vit", "vcs_info": {"vcs": "git"}}, "git+https://h/vit"),
    ],
)
def test_a_url_is_named(installed, origin: dict[str, Any], source: str) -> None:
    installed(origin)
    assert pip_install("cpu") == f"python -m pip install 'vit-engine[cpu] @ {source}'"


def test_what_is_not_known_is_not_guessed(installed, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(None)
    assert pip_install("cpu") == f"python -m pip install '{WHEEL}[cpu]'"

    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    assert pip_install("cpu") == f"python -m pip install '{WHEEL}[cpu]'"


def test_the_python_is_this_one(installed, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(None)
    monkeypatch.setattr(shutil, "which", {"python": "/elsewhere/python"}.get)
    assert shlex.split(pip_install("cpu"))[:4] == [sys.executable, "-m", "pip", "install"]
    assert installation.pip() == f"{shlex.quote(sys.executable)} -m pip"


def test_no_message_names_an_index_that_does_not_have_it() -> None:
    for folder in ("runtime", "export", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "'vit-engine[" not in path.read_text(), path
