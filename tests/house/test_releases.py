"""What is released is what is tested: versions, workflows and images say the same."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PINNED_ACTION = re.compile(r"[\w.-]+(/[\w.-]+)+@[0-9a-f]{40} # v\d+(\.\d+)*")
IMAGES = sorted((ROOT / "deploy").glob("Containerfile.*"))


def test_both_builds_of_onnx_runtime_have_one_range_and_its_pins_are_in_it() -> None:
    cpu, gpu = (Requirement(EXTRAS[extra][0]).specifier for extra in ("cpu", "gpu"))
    assert cpu == gpu
    pins = dict(
        re.findall(r"^(onnxruntime\S*)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)
    )
    assert pins.keys() == {"onnxruntime", "onnxruntime-gpu"}
    assert all(cpu.contains(pin) for pin in pins.values())


def test_what_users_install_has_upper_bounds() -> None:
    """But for the tools of this repository, and what Ray itself bounds."""
    named = [*PROJECT["dependencies"]]
    named += [
        line for extra, lines in EXTRAS.items() if extra not in ("bench", "dev") for line in lines
    ]
    found = {Requirement(line).name: str(Requirement(line).specifier) for line in named}
    unbounded = {name for name, range_ in found.items() if not re.search("<|==", range_)}
    assert unbounded == {"vit-engine", "fsspec", "s3fs"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_pins_its_actions_and_starts_without_rights(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    assert "secrets." not in path.read_text()
    used = re.findall(r"uses: (.+)", path.read_text())
    assert used
    for action in used:
        assert action.startswith("./.github/workflows/") or PINNED_ACTION.fullmatch(action), action


def test_the_pythons_tested_are_those_promised() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    tested = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: "
    promised = {line.removeprefix(prefix) for line in PROJECT["classifiers"] if prefix in line}
    assert {*tested} == promised - {"3"}
    assert PROJECT["requires-python"] == f">={min(tested, key=lambda v: int(v[2:]))}"


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.suffix[1:])
def test_an_image_is_made_of_wheels_on_a_pinned_base(path: Path) -> None:
    text = path.read_text()
    stages = re.findall(r"^FROM (?:--platform=\S+ )?(\S+)", text, re.MULTILINE)
    assert stages
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", stage) for stage in stages)
    assert "--only-binary :all:" in text
    assert "org.opencontainers.image.licenses" in text


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert (
        f"## {citation['version']}, {citation['date-released']}"
        in (ROOT / "CHANGELOG.md").read_text()
    )
